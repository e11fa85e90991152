#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::machine::device_tree(bytes));
