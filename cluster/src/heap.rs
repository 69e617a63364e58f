//! What things take on the heap, for what is kept in memory and bounded in bytes.
//!
//! It is counted as the allocator gives it, not as it is used: whole chunks, capacities, nodes as empty as they may be. Where
//! something is shared, each who holds it counts it. So what is counted is rather too much than too little.

use std::mem::size_of;

/// What an allocation of so many bytes takes: glibc gives multiples of 16, with 8 for itself, and 32 at least.
#[must_use]
pub const fn chunk(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let whole = (bytes + 8).next_multiple_of(16);
    if whole < 32 { 32 } else { whole }
}

/// What a text takes that is counted by reference.
#[must_use]
pub const fn shared_text(len: usize) -> usize {
    chunk(len + 2 * size_of::<usize>())
}

/// What an entry of a `HashMap` takes at most, once the map has been made no larger than its entries need: tables have a
/// power of two of places, of which at least 7 in 16 are taken.
#[must_use]
pub const fn hash_entry<T>() -> usize {
    (size_of::<T>() + 1) * 16 / 7 + 1
}

/// What a `HashMap` with this capacity takes.
#[must_use]
pub const fn hash_table<T>(capacity: usize) -> usize {
    if capacity == 0 {
        0
    } else {
        chunk((capacity * 8).div_ceil(7).next_power_of_two() * (size_of::<T>() + 1) + 16)
    }
}

/// What an entry of a `BTreeMap` takes at most: its nodes have 11 places and hold 5 at least, and of six nodes one is inner and
/// has 12 pointers besides.
#[must_use]
pub const fn tree_entry<T>() -> usize {
    (size_of::<T>() * 11 + 32) / 5 * 6 / 5 + 5 * size_of::<usize>()
}
