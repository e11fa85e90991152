//! OpenSSL, compressors in both directions between guest and host, and an encoder and decoder of video.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("openssl_digests",    120, openssl_digests),
    Story::core("openssl_ciphers",    120, openssl_ciphers),
    Story::core("openssl_signatures", 240, openssl_signatures),
    Story::core("openssl_big_numbers", 60, openssl_big_numbers),
    Story::core("round_trip_gzip",    120, |s| round_trip(s, "gzip", &["-1", "-6", "-9"])),
    Story::core("round_trip_bzip2",   120, |s| round_trip(s, "bzip2", &["-1", "-9"])),
    Story::core("round_trip_xz",      180, |s| round_trip(s, "xz", &["-0", "-6", "-T2"])),
    Story::core("round_trip_zstd",    120, |s| round_trip(s, "zstd", &["-1", "-12", "-T2"])),
    Story::full("video",          600, video),
];

/// Compressible and incompressible stretches, the same in every run: a xorshift generator and its echo.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut data = Vec::with_capacity(size);
    while data.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(3) {
            data.extend_from_slice(&state.to_le_bytes());
        } else {
            let from = (state >> 20) as usize % (data.len() + 1);
            let piece = data[from..data.len().min(from + 40)].to_vec();
            data.extend(piece);
        }
    }
    data.truncate(size);
    data
}

fn openssl_digests(s: &Stage) -> Result<(), Failed> {
    let file = s.write("data", sample(1_000_003))?;
    for digest in ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-512", "blake2b512", "blake2s256", "sm3", "ripemd160"] {
        let run = |r: crate::stage::Run<'_>| r.args(["dgst", "-r", &format!("-{digest}")]).arg(&file).run()?.succeeds();
        let native = run(s.host("openssl"))?.text();
        run(s.guest("usr/bin/openssl"))?.prints(&native)?;
    }
    let mac = ["dgst", "-sha256", "-r", "-hmac", "key", "data"];
    let native = s.host("openssl").args(mac).run()?.succeeds()?.text();
    s.guest("usr/bin/openssl").args(mac).run()?.succeeds()?.prints(&native)?;
    Ok(())
}

/// Encrypted in the guest, equal to and decrypted by the host's.
fn openssl_ciphers(s: &Stage) -> Result<(), Failed> {
    let data = sample(100_001);
    let ciphers = ["aes-128-cbc", "aes-256-ctr", "aes-192-cfb", "aes-256-ofb", "chacha20", "camellia-128-cbc", "aria-128-cbc", "des-ede3-cbc"];
    for cipher in ciphers {
        let words = ["enc", &format!("-{cipher}"), "-pbkdf2", "-iter", "200", "-S", "0102030405060708", "-pass", "pass:rhea"];
        let native = s.host("openssl").args(words).input(data.clone()).run()?.succeeds()?.stdout;
        let done = s.guest("usr/bin/openssl").args(words).input(data.clone()).run()?.succeeds()?;
        if done.stdout != native {
            return Err(done.fail(&format!("{cipher}: the cipher text differs from the host's")));
        }
        let back = s.guest("usr/bin/openssl").args(words).arg("-d").input(native).run()?.succeeds()?;
        if back.stdout != data {
            return Err(back.fail(&format!("{cipher}: not decrypted")));
        }
    }
    Ok(())
}

fn openssl_signatures(s: &Stage) -> Result<(), Failed> {
    s.write("message", sample(5000))?;
    let keys: &[(&str, &[&str])] = &[
        ("RSA", &["-pkeyopt", "rsa_keygen_bits:2048"]),
        ("EC", &["-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("EC", &["-pkeyopt", "ec_paramgen_curve:secp384r1"]),
        ("ED25519", &[]),
        ("ED448", &[]),
    ];
    for (algorithm, options) in keys {
        let guest = || s.guest("usr/bin/openssl");
        guest().args(["genpkey", "-algorithm", algorithm, "-out", "key"]).args(*options).run()?.succeeds()?;
        s.host("openssl").args(["pkey", "-in", "key", "-pubout", "-out", "public"]).run()?.succeeds()?;
        let raw: &[&str] = if algorithm.starts_with("ED") { &["-rawin"] } else { &["-rawin", "-digest", "sha256"] };
        let sign = ["pkeyutl", "-sign", "-inkey", "key", "-in", "message", "-out"];
        let verify = ["pkeyutl", "-verify", "-pubin", "-inkey", "public", "-in", "message", "-sigfile"];
        guest().args(sign).arg("guest.sig").args(raw).run()?.succeeds()?;
        s.host("openssl").args(verify).arg("guest.sig").args(raw).run()?.succeeds()?;
        s.host("openssl").args(sign).arg("host.sig").args(raw).run()?.succeeds()?;
        guest().args(verify).arg("host.sig").args(raw).run()?.succeeds()?;
        // A signature that does not belong to the message is refused.
        let mut broken = std::fs::read(s.work.join("host.sig"))?;
        let last = broken.len() - 1;
        broken[last] ^= 1;
        s.write("broken.sig", broken)?;
        guest().args(verify).arg("broken.sig").args(raw).run()?.exits(1)?;
    }
    Ok(())
}

fn openssl_big_numbers(s: &Stage) -> Result<(), Failed> {
    for number in ["170141183460469231731687303715884105727", "170141183460469231731687303715884105729"] {
        let native = s.host("openssl").args(["prime", number]).run()?.succeeds()?.text();
        s.guest("usr/bin/openssl").args(["prime", number]).run()?.succeeds()?.prints(&native)?;
    }
    Ok(())
}

/// Guest compresses and decompresses; each side reads the other's file.
fn round_trip(s: &Stage, tool: &str, levels: &[&str]) -> Result<(), Failed> {
    let data = sample(2_000_000);
    let guest = || s.guest(&format!("usr/bin/{tool}"));
    for level in levels {
        let packed = guest().args([level, "-c"]).input(data.clone()).run()?.succeeds()?;
        if packed.stdout.len() >= data.len() {
            return Err(packed.fail("nothing was compressed"));
        }
        let back = guest().arg("-dc").input(packed.stdout.clone()).run()?.succeeds()?;
        if back.stdout != data {
            return Err(back.fail(&format!("{tool} {level}: not what went in")));
        }
        let host = s.host(tool).arg("-dc").input(packed.stdout).run()?.succeeds()?;
        if host.stdout != data {
            return Err(host.fail(&format!("{tool} {level}: the host reads something else")));
        }
        let host = s.host(tool).args([level, "-c"]).input(data.clone()).run()?.succeeds()?;
        let back = guest().arg("-dc").input(host.stdout).run()?.succeeds()?;
        if back.stdout != data {
            return Err(back.fail(&format!("{tool} {level}: the guest misreads the host's file")));
        }
    }
    let refused = guest().arg("-dc").input("not a compressed file").run()?;
    if refused.status.success() {
        return Err(refused.fail("garbage was accepted"));
    }
    Ok(())
}

/// An encoder and a decoder whose Advanced SIMD code promises the very bits of their code in C.
fn video(s: &Stage) -> Result<(), Failed> {
    let ffmpeg = |arguments: &str| {
        // What the packages' scripts would have linked.
        let blas = "/usr/lib/arm-linux-gnueabihf/blas:/usr/lib/arm-linux-gnueabihf/lapack";
        let run = s.guest("usr/bin/ffmpeg").env("LD_LIBRARY_PATH", blas).args(["-nostdin", "-v", "error", "-y"]);
        run.args(arguments.split(' ')).run()?.succeeds()
    };
    let exact = "-flags +bitexact -fflags +bitexact -map_metadata -1";
    for (name, asm) in [("simd", 1), ("plain", 0)] {
        let source = "-f lavfi -i testsrc2=s=320x180:d=1:r=25 -threads 1 -c:v libx264";
        ffmpeg(&format!("{source} -preset medium -x264-params asm={asm} {exact} {name}.h264"))?;
    }
    let [simd, plain] = ["simd.h264", "plain.h264"].map(|name| std::fs::read(s.work.join(name)));
    let (simd, plain) = (simd?, plain?);
    if simd != plain || simd.len() < 10_000 {
        return Err(format!("{} bytes with and {} without Advanced SIMD differ", simd.len(), plain.len()).into());
    }
    let frames = |flags: &str| Ok::<String, Failed>(ffmpeg(&format!("{flags} -i simd.h264 -f framemd5 -"))?.text());
    let (simd, plain) = (frames("-threads 1")?, frames("-threads 1 -cpuflags 0")?);
    if simd != plain || simd.lines().filter(|l| l.starts_with("0,")).count() != 25 {
        return Err(format!("frames differ:\n{simd}\n{plain}").into());
    }
    Ok(())
}
