//! Searches as the network's plain CPU miner does: increment the nonce, hash 96 bytes, compare with the target.
//!
//!     quantus-miner-peer HEADER SECONDS     prints "HASHES SECONDS"
//!     quantus-miner-peer HEADER hash NONCE  prints the hash of one nonce, to check that both sides do the same work

use std::time::{Duration, Instant};

use qp_poseidon_core::hash_squeeze_twice;

/// Nonces between two looks at the clock.
const BATCH: u64 = 4096;

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert!(hex.len() == 2 * N && hex.is_ascii(), "expected {} hex digits", 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits"))
}

fn increment(nonce: &mut [u8]) {
    for byte in nonce.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return;
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut input = [0u8; 96];
    input[..32].copy_from_slice(&bytes::<32>(&arguments[1]));
    if arguments[2] == "hash" {
        input[32..].copy_from_slice(&bytes::<64>(&arguments[3]));
        println!("{}", hash_squeeze_twice(&input).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        return;
    }
    let limit = Duration::from_secs_f64(arguments[2].parse().expect("seconds"));
    let target = [0u8; 64]; // nothing is below it
    let began = Instant::now();
    let (mut hashes, mut found) = (0u64, 0u64);
    while began.elapsed() < limit {
        for _ in 0..BATCH {
            increment(&mut input[32..]);
            found += u64::from(hash_squeeze_twice(&input) < target);
        }
        hashes += BATCH;
    }
    println!("{} {}", hashes + found, began.elapsed().as_secs_f64());
}
