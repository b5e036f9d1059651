//! Frames whose checksums are right, with any payloads: what the checksums protect the decoder from otherwise.
//!
//! The input: for each payload its length (one byte), then the payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use txlog::medium::simulation::{Simulated, forged};
use txlog::{OpenError, Operation};

fuzz_target!(|input: &[u8]| {
    let (mut payloads, mut rest) = (Vec::new(), input);
    while let Some((len, after)) = rest.split_first() {
        let (payload, after) = after.split_at(after.len().min(usize::from(*len)));
        payloads.push(payload);
        rest = after;
    }
    let mut bytes = 0;
    let dumped = txlog::dump_in(&Simulated::new(forged(payloads)), |_, entry| {
        bytes += match entry.operation {
            Operation::Set { bucket, key, value } => bucket.len() + key.len() + value.len(),
            Operation::Delete { bucket, key } => bucket.len() + key.len(),
        };
        Ok(())
    });
    assert!(bytes <= input.len(), "more was read than is there");
    match dumped {
        Ok(recovery) => assert_eq!((recovery.torn, recovery.lost), (None, 0)),
        Err(OpenError::Damage(_)) => {}
        Err(error) => panic!("{error}"),
    }
});
