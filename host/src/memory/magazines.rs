//! Magazines: what a worker freed last is what it gets next.
//!
//! mimalloc hands out all blocks of a page before it hands out one again. A request allocates some 150 blocks and frees them
//! all; by the time each comes round again, it has left the processor's caches. A stack of free blocks for each size gives
//! out the warm ones, and it is a few instructions where the size is known to the compiler.
//!
//! Whoever allocates, and wherever, gets a block as large as its class, so that any thread can keep it. Only threads that
//! have [`open`]ed their magazines do. What bounds them: [`ROOM`] for each class, so 8 MiB for a thread. A magazine is emptied by
//! using it; a thread that ends leaves what is in them behind, so they are for threads that live as long as the process.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;

use mimalloc::MiMalloc;

/// The largest block that is kept, in bytes: what a connection reads into. Nothing that every request needs is larger.
const LARGEST: usize = 8192;
/// The sizes of classes are the multiples of this, and so is every block's address.
const STEP: usize = 16;
/// How much a magazine holds, in bytes.
const ROOM: usize = 16 * 1024;
/// One for each multiple up to [`LARGEST`], 0 among them.
const CLASSES: usize = LARGEST / STEP + 1;

thread_local! {
    static MAGAZINES: UnsafeCell<[Magazine; CLASSES]> = const { UnsafeCell::new([const { Magazine::closed() }; CLASSES]) };
}

/// The free blocks of one class, each of which begins with the address of the next.
struct Magazine {
    first: *mut u8,
    /// How many more it may hold.
    room: usize,
}

impl Magazine {
    /// One that holds nothing.
    const fn closed() -> Self {
        Self { first: ptr::null_mut(), room: 0 }
    }

    /// The block that was put in last; null if it is empty.
    #[inline]
    #[allow(unsafe_code, reason = "this is an allocator")]
    fn take(&mut self) -> *mut u8 {
        let block = self.first;
        if !block.is_null() {
            // SAFETY: `keep` has written it there, and since then the block was nobody's.
            self.first = unsafe { block.cast::<*mut u8>().read() };
            self.room += 1;
        }
        block
    }

    /// Puts a block in, and says whether there was room for it.
    ///
    /// # Safety
    /// It must be aligned and large enough for an address, and nobody else's from now on.
    #[inline]
    #[allow(unsafe_code, reason = "this is an allocator")]
    unsafe fn keep(&mut self, block: *mut u8) -> bool {
        if self.room == 0 {
            return false;
        }
        // SAFETY: as the caller promises.
        unsafe { block.cast::<*mut u8>().write(self.first) };
        self.first = block;
        self.room -= 1;
        true
    }
}

/// Lets the thread keep what it frees. It should be one that lives as long as the process. Twice is the same as once.
pub(crate) fn open() {
    with_all(|magazines| {
        for (class, magazine) in magazines.iter_mut().enumerate().skip(1) {
            if magazine.first.is_null() {
                magazine.room = ROOM / (class * STEP);
            }
        }
    });
}

#[inline]
#[allow(unsafe_code, reason = "this is an allocator")]
fn with_all<T>(work: impl FnOnce(&mut [Magazine; CLASSES]) -> T) -> T {
    // SAFETY: they are this thread's own, and no `work` in this file allocates, so none is inside of another.
    MAGAZINES.with(|magazines| work(unsafe { &mut *magazines.get() }))
}

/// mimalloc behind magazines.
pub(super) struct Allocator;

/// Which class a block is of, if it is one that is kept.
#[inline]
fn class(layout: Layout) -> Option<usize> {
    (layout.size() <= LARGEST && layout.align() <= STEP).then(|| layout.size().div_ceil(STEP))
}

/// What mimalloc is asked for: as much as the whole class has.
#[inline]
#[allow(unsafe_code, reason = "this is an allocator")]
fn whole(class: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the size far from the largest.
    unsafe { Layout::from_size_align_unchecked(class * STEP, STEP) }
}

/// An empty magazine: the block is a new one.
#[cold]
#[inline(never)]
#[allow(unsafe_code, reason = "this is an allocator")]
fn new(class: usize) -> *mut u8 {
    // SAFETY: Rust doesn't allocate sizes of 0, so the class has at least one step.
    unsafe { MiMalloc.alloc(whole(class)) }
}

/// A full magazine, or a closed one: the block is free.
///
/// # Safety
/// It must be of this class, and nobody's any more.
#[cold]
#[inline(never)]
#[allow(unsafe_code, reason = "this is an allocator")]
unsafe fn free(block: *mut u8, class: usize) {
    // SAFETY: blocks of a class all come from `new`, whatever magazine they have been in.
    unsafe { MiMalloc.dealloc(block, whole(class)) }
}

// SAFETY: a block of a class is as large as the class, and aligned to its step; others are mimalloc's own. It is in one
// magazine or somebody's, as it is put in by `dealloc` alone and taken out by `alloc` alone, and on the same thread.
#[allow(unsafe_code, reason = "this is an allocator")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { MiMalloc.alloc(layout) };
        };
        let block = with_all(|magazines| magazines[class].take());
        if block.is_null() { new(class) } else { block }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else {
            // SAFETY: as the caller promises; it was mimalloc that has allocated it.
            return unsafe { MiMalloc.dealloc(block, layout) };
        };
        // SAFETY: it is aligned to the step and at least as large, and the caller has given it up.
        let kept = with_all(|magazines| unsafe { magazines[class].keep(block) });
        if !kept {
            // SAFETY: it is of this class.
            unsafe { free(block, class) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(layout).is_none() {
            // SAFETY: as the caller promises.
            return unsafe { MiMalloc.alloc_zeroed(layout) };
        }
        // SAFETY: as the caller promises.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: it is at least as large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(wanted)) {
            // SAFETY: as the caller promises; it was mimalloc that has allocated it.
            (None, None) => unsafe { MiMalloc.realloc(block, layout, size) },
            (had, needs) if had == needs => block,
            // SAFETY: the new block is as large as `wanted` and another one; the old one is as large as `layout`.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "this is an allocator")]
mod tests {
    use super::*;

    const ALLOCATOR: Allocator = Allocator;
    const THREE: Layout = Layout::new::<[u64; 3]>();

    /// On a thread of its own, whose magazines are `open`, or not.
    fn on_a_thread(opened: bool, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if opened {
                open();
            }
            test();
        });
        thread.join().expect("the test on it doesn't panic");
    }

    #[test]
    fn what_was_freed_last_comes_first() {
        on_a_thread(true, || unsafe {
            let (first, second) = (ALLOCATOR.alloc(THREE), ALLOCATOR.alloc(THREE));
            ALLOCATOR.dealloc(first, THREE);
            ALLOCATOR.dealloc(second, THREE);
            assert_eq!(ALLOCATOR.alloc(THREE), second);
            // 25 bytes need as much as 24.
            assert_eq!(ALLOCATOR.alloc(Layout::new::<[u8; 25]>()), first);
        });
    }

    #[test]
    fn a_magazine_holds_so_much_and_a_closed_one_nothing() {
        let freed = |opened: bool, size: usize| {
            on_a_thread(opened, move || {
                let layout = Layout::from_size_align(size, 8).expect("a test's layout");
                let blocks: Vec<_> = (0..ROOM).map(|_| unsafe { ALLOCATOR.alloc(layout) }).collect();
                blocks.into_iter().for_each(|block| unsafe { ALLOCATOR.dealloc(block, layout) });
                let (first, room) = with_all(|magazines| {
                    let magazine = &magazines[class(layout).expect("it is kept")];
                    (magazine.first, magazine.room)
                });
                assert_eq!(first.is_null(), !opened);
                assert_eq!(room, 0);
                let mut held = 0;
                while with_all(|magazines| !magazines[size.div_ceil(STEP)].take().is_null()) {
                    held += 1;
                }
                assert_eq!(held, if opened { ROOM / size } else { 0 });
            });
        };
        for size in [STEP, 512, LARGEST] {
            freed(true, size);
            freed(false, size);
        }
    }

    #[test]
    fn what_is_too_large_or_aligned_to_more_is_not_kept() {
        let class = |size, align| class(Layout::from_size_align(size, align).expect("a test's layout"));
        assert_eq!(class(1, 1), Some(1));
        assert_eq!(class(16, 16), Some(1));
        assert_eq!(class(17, 8), Some(2));
        assert_eq!(class(LARGEST, 8), Some(CLASSES - 1));
        assert_eq!(class(LARGEST + 1, 8), None);
        assert_eq!(class(64, 32), None);
    }

    #[test]
    fn a_block_that_grows_and_shrinks_keeps_what_is_in_it() {
        on_a_thread(true, || {
            let mut bytes: Vec<u8> = Vec::new();
            for at in 0..3 * LARGEST {
                bytes.push(at as u8);
                if at.is_power_of_two() {
                    bytes.shrink_to_fit();
                }
            }
            while !bytes.is_empty() {
                assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8));
                bytes.truncate(bytes.len() / 3);
                bytes.shrink_to_fit();
            }
        });
    }

    #[test]
    fn what_was_used_before_is_zeroed() {
        on_a_thread(true, || unsafe {
            let used = ALLOCATOR.alloc(THREE);
            used.write_bytes(1, THREE.size());
            ALLOCATOR.dealloc(used, THREE);
            let zeroed = ALLOCATOR.alloc_zeroed(THREE);
            assert_eq!(zeroed, used);
            assert_eq!(zeroed.cast::<[u64; 3]>().read(), [0; 3]);
        });
    }

    #[test]
    fn blocks_go_from_thread_to_thread() {
        on_a_thread(true, || {
            let (sender, receiver) = std::sync::mpsc::channel::<Vec<u8>>();
            let other = std::thread::spawn(move || {
                open();
                receiver.into_iter().map(|bytes| bytes.len()).sum::<usize>()
            });
            for size in 1..2 * LARGEST {
                sender.send(vec![7; size]).expect("the other thread takes them");
            }
            drop(sender);
            assert_eq!(other.join().expect("it doesn't panic"), (1..2 * LARGEST).sum::<usize>());
        });
    }
}
