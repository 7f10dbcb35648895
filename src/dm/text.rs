// SPDX-License-Identifier: GPL-2.0

//! The buffers in which device mapper wants the answers to status and message requests, and sysfs
//! the content of files.

use core::{fmt, marker::PhantomData};
use kernel::ffi;

/// A C string being written into a buffer of the kernel's. What does not fit is cut off, in
/// the way by which the core notices: the buffer is full to the last byte but one.
///
/// # Invariants
///
/// `buf` is valid for `max` bytes; `len < max` unless `max` is 0; the byte at `len` is 0.
pub(crate) struct Text<'a> {
    buf: *mut u8,
    max: usize,
    len: usize,
    overflow: bool,
    _buffer: PhantomData<&'a mut [u8]>,
}

impl Text<'_> {
    /// # Safety
    ///
    /// `buf` is valid for reads and writes of `max` bytes, and used by nothing else meanwhile.
    pub(super) unsafe fn new(buf: *mut ffi::c_char, max: usize) -> Self {
        let buf = buf.cast::<u8>();
        if max > 0 {
            // SAFETY: By the safety requirement.
            unsafe { *buf = 0 };
        }
        // INVARIANT: The string is empty and ended.
        Self { buf, max, len: 0, overflow: max == 0, _buffer: PhantomData }
    }

    /// Whether nothing has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && !self.overflow
    }

    /// How many bytes have been written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes still fit.
    pub(crate) fn room(&self) -> usize {
        self.max.saturating_sub(self.len + 1)
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let n = s.len().min(self.room());
        if n > 0 {
            // SAFETY: By the type invariant there is room for `n` bytes and the end.
            unsafe {
                core::ptr::copy_nonoverlapping(s.as_ptr(), self.buf.add(self.len), n);
                *self.buf.add(self.len + n) = 0;
            }
            self.len += n;
        }
        // Never an error: what is written after an overflow is dropped, and the core asks again
        // with a larger buffer.
        self.overflow |= n < s.len();
        Ok(())
    }
}
