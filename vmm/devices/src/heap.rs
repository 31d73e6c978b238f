//! The allocator of a process with confined threads.
#![allow(unsafe_code)]

/// Lets all threads allocate from one heap; to be called before there is a second thread.
///
/// The C library gives a thread a heap of its own, and before it shrinks one it reads a file
/// (`check_may_shrink_heap`, glibc's malloc/arena.c), which a confined thread may not. The few
/// threads of a machine seldom allocate at the same time.
pub fn one_for_all_threads() {
    // SAFETY: it sets a number in the allocator. It fails for no number of heaps, and without it
    // everything but the above works as well.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
