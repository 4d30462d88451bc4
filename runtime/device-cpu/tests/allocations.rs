//! No dispatch allocates, on no thread. It counts what the whole process allocates, so it is a process of its own, without
//! Rust's test harness, which allocates when it says that a test takes more than a minute.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::bench;
use dreamc_device_cpu::Isa;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Counts what all threads allocate.
struct Counting;

// SAFETY: passes everything on to the system's allocator.
#[allow(unsafe_code, reason = "a test allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let cases = common::all();
    for case in &cases {
        let mut bench = bench(case, Isa::detect(), 3, None);
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        let result = bench.run();
        let after = ALLOCATIONS.load(Ordering::SeqCst);
        result.unwrap();
        assert_eq!(before, after, "{:?} allocates", case.kernel);
    }
}
