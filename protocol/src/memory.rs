//! Shared memory: a memfd, mapped.
//!
//! Words are atomics and may be read and written by several processes at once. Bytes are lent as
//! slices only by [`Segment::bytes`] and [`Segment::bytes_mut`], for memory that one process at a
//! time uses (a process's own state); what another process may write meanwhile (a ring, the log)
//! is copied with [`Segment::copy_out`] and [`Segment::copy_in`].

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Bytes that memory is taken and given back in.
pub const PAGE: usize = 4096;

/// What a mapping may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// A mapped memfd and its fd.
#[derive(Debug)]
pub struct Segment {
    at: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping is plain memory that stays where it is until drop; every access is either
// atomic, a copy, or guarded by the caller's promise (`bytes`, `bytes_mut`).
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new segment of `len` zero bytes (pages are taken when they are first touched), sealed
    /// against resizing, so that no holder of its fd can make another's access fault.
    pub fn create(name: &CStr, len: usize) -> io::Result<Segment> {
        let fd = memfd_create(
            name,
            MFdFlags::MFD_CLOEXEC
                | MFdFlags::MFD_ALLOW_SEALING
                | MFdFlags::from_bits_retain(NOEXEC),
        )
        .or_else(|_| memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING))?;
        nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        nix::unistd::ftruncate(&fd, len as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Segment::map(fd, Access::ReadWrite)
    }

    /// Maps the whole of a memfd that exists.
    pub fn map(fd: OwnedFd, access: Access) -> io::Result<Segment> {
        let len = nix::sys::stat::fstat(&fd)?.st_size as usize;
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidData)?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: a fresh shared mapping of a file that cannot shrink.
        let at = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0)? };
        // A core dump that holds whole segments costs seconds; they are not needed in it.
        // SAFETY: exactly the mapping made above.
        unsafe { madvise(at, len, MmapAdvise::MADV_DONTDUMP)? };
        Ok(Segment {
            at: at.cast(),
            len,
            fd,
        })
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.len
    }

    /// Another open file of the same memory that can only be read, and so only be mapped for
    /// reading: what a process gets that is not its writer.
    pub fn open_read_only(&self) -> io::Result<OwnedFd> {
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_CLOEXEC)
            .open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?;
        Ok(file.into())
    }

    /// The `index`th 8-byte word. An index outside is a fault of ours, and aborts.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len / 8, "word {index} outside the segment");
        // SAFETY: inside the mapping, aligned (the mapping is page-aligned), and every access to
        // words is atomic.
        unsafe { &*self.at.as_ptr().cast::<AtomicU64>().add(index) }
    }

    /// `count` words from the `first` on. Words outside are a fault of ours, and abort.
    #[must_use]
    pub fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        self.check(first * 8, count * 8);
        // SAFETY: as for one word.
        unsafe {
            std::slice::from_raw_parts(self.at.as_ptr().cast::<AtomicU64>().add(first), count)
        }
    }

    /// `len` bytes at `offset`, as they are now.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    #[must_use]
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.check(offset, len);
        // SAFETY: inside the mapping; the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().add(offset), len) }
    }

    /// `len` bytes at `offset`, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    #[must_use]
    #[expect(
        clippy::mut_from_ref,
        reason = "shared memory; the caller promises that nobody else uses these bytes"
    )]
    pub unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: inside the mapping; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().add(offset), len) }
    }

    /// Copies from memory that another process may be writing: what arrives may be torn, and the
    /// caller finds out by other means.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        // SAFETY: inside the mapping, and `into` is ours. A torn copy is the caller's to detect.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.at.as_ptr().add(offset),
                into.as_mut_ptr(),
                into.len(),
            )
        };
    }

    /// Copies into memory that another process may be reading.
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        // SAFETY: inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.at.as_ptr().add(offset), from.len())
        };
    }

    /// Gives the memory of these bytes back to the kernel, as far as it is whole pages: they are zero
    /// from now on. Nobody uses them, and it is no harm if a part stays as it is.
    pub fn give_back(&self, bytes: Range<usize>) {
        let start = bytes.start.next_multiple_of(PAGE);
        let end = bytes.end / PAGE * PAGE;
        if start >= end {
            return;
        }
        self.check(start, end - start);
        // SAFETY: inside the mapping; what is there is nobody's, as the caller says.
        let _ = unsafe {
            let at = self.at.add(start).cast();
            madvise(at, end - start, MmapAdvise::MADV_REMOVE)
        };
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "bytes {offset}+{len} outside the segment"
        );
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, and nothing borrowed from it can outlive `self`.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// Gives back what is free in the heap, wherever in it that is: a table that grew leaves the places
/// where it was. Takes some 20 µs for a heap of a megabyte (malloc_trim(3)).
pub fn trim_heap() {
    // SAFETY: may be called at any time.
    unsafe { nix::libc::malloc_trim(0) };
}

/// `MFD_NOEXEC_SEAL` (Linux 6.3): memory is not a program.
const NOEXEC: u32 = 0x0008;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_show_the_same_memory() {
        let a = Segment::create(c"test", 8192).unwrap();
        let b = Segment::map(a.open_read_only().unwrap(), Access::Read).unwrap();
        a.word(1023).store(7, Ordering::Release);
        assert_eq!(b.word(1023).load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_reader_cannot_map_it_for_writing() {
        let a = Segment::create(c"test", 4096).unwrap();
        assert!(Segment::map(a.open_read_only().unwrap(), Access::ReadWrite).is_err());
    }

    #[test]
    fn whole_pages_can_be_given_back() {
        let a = Segment::create(c"test", 4 * PAGE).unwrap();
        let words = [511, 512, 1535, 1536].map(|index| a.word(index));
        words.iter().for_each(|w| w.store(1, Ordering::Relaxed));
        a.give_back(511 * 8..1537 * 8);
        a.give_back(100..200);
        assert_eq!(words.map(|w| w.load(Ordering::Relaxed)), [1, 0, 0, 1]);
    }

    #[test]
    fn it_cannot_be_resized() {
        let a = Segment::create(c"test", 4096).unwrap();
        assert!(nix::unistd::ftruncate(&a, 0).is_err());
    }
}
