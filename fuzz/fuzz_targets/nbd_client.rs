#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::nbd_client(bytes));
