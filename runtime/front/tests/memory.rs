//! What a tokenizer takes it gives back: nothing stays in a thread that has used one.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]
#![allow(unsafe_code, reason = "a counting allocator")]

use dreamc_front::Tokenizer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicIsize, Ordering};

/// Bytes that are allocated.
static LIVE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: the system's allocator, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn tokenizers_leave_nothing_behind() {
    const CYCLES: usize = 64;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/fixtures/tabletop-vla/checkpoint");
    let bytes = Tokenizer::from_dir(&folder).unwrap().to_bytes().unwrap();
    let cycles = |count: usize| {
        for _ in 0..count {
            let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
            assert!(!tokenizer.encode("pick up the red block and put it down again").unwrap().is_empty());
        }
    };
    let grown = |cycle: &dyn Fn()| {
        cycle();
        let before = LIVE.load(Ordering::Relaxed);
        cycle();
        LIVE.load(Ordering::Relaxed) - before
    };
    assert_eq!(grown(&|| cycles(CYCLES)), 0, "bytes stay after {CYCLES} tokenizers in one thread");
    let many = || {
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| cycles(CYCLES))));
        })
    };
    let stays = grown(&many);
    // Four threads of the test harness' own bookkeeping.
    assert!(stays < 1024, "{stays} bytes stay after {CYCLES} tokenizers in each of four threads");
}
