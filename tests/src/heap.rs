//! What the heap holds: an allocator that counts per thread, and the C library's count, in which C code is too.
#![expect(unsafe_code, reason = "an allocator is unsafe by nature, and the C library's count is C")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted. To be named as `#[global_allocator]` by the program that measures.
#[derive(Debug)]
pub struct Counted;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Wraps around instead of failing: what one thread allocates another may free.
fn add(bytes: usize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    // Below nothing is not a peak.
    if held as isize > PEAK.get() as isize {
        PEAK.set(held);
    }
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor touches what is allocated, and
// the thread's counts need no destructor.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(layout.size().wrapping_neg());
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // While it moves, both may be there.
        add(bytes);
        // SAFETY: as promised by the caller.
        let moved = unsafe { System.realloc(memory, layout, bytes) };
        add(layout.size().wrapping_neg());
        moved
    }
}

/// Most bytes of Rust's that this thread has held at once while it did `work`, more than it held before.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().wrapping_sub(before))
}

/// Bytes that the whole process has allocated, C code included.
#[must_use]
pub fn held_bytes() -> usize {
    // SAFETY: takes no arguments and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}
