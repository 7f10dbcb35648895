// SPDX-License-Identifier: GPL-2.0

//! Folders in sysfs: a kobject whose files are shown and stored by a Rust type.
//!
//! A folder raises no uevent: programs hear of it with what it is a folder of.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::{bindings, text::Text};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::to_result, ffi, page::PAGE_SIZE, prelude::*, str::CString, sync::LockClassKey,
    types::Opaque,
};

/// What a folder is about. Called from several threads.
pub(crate) trait Contents: Send + Sync + 'static {
    /// Which of its files.
    type File: Copy + Send + Sync + 'static;

    /// Writes what reading `file` gives. What is longer than a page, less one byte, is cut off.
    ///
    /// # Errors
    ///
    /// What `read` fails with.
    fn show(&self, file: Self::File, out: &mut Text<'_>) -> Result;

    /// Takes the bytes of one `write` to `file`: at least one, at most a page, of more the first page.
    ///
    /// # Errors
    ///
    /// What `write` fails with.
    fn store(&self, file: Self::File, bytes: &[u8]) -> Result;
}

/// A file to be made.
pub(crate) struct NewFile<F> {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether root may write to it; everybody may read it.
    pub(crate) writable: bool,
    /// What [`Contents`] knows it as.
    pub(crate) file: F,
}

/// What a folder is to be made in.
///
/// # Invariants
///
/// The kobject is initialized, and has a reference that lasts for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Parent<'a>(*mut bindings::kobject, PhantomData<&'a ()>);

impl Parent<'_> {
    /// # Safety
    ///
    /// The kobject is initialized, and keeps a reference for as long as what is given.
    pub(super) unsafe fn from_raw(kobject: *mut bindings::kobject) -> Self {
        // INVARIANT: By the safety requirement.
        Self(kobject, PhantomData)
    }
}

/// A file; its address is what the kernel knows it by.
#[repr(C)]
struct Attribute<F> {
    attribute: bindings::attribute,
    /// What `attribute` has the name of.
    name: CString,
    file: F,
}

/// Has lock debugging take those who are in `show` or `store` of this file for holders of a lock of that
/// class (`sysfs_attr_init`), which who removes the file waits for.
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
fn set_lock_class(attribute: &mut bindings::attribute, class: Pin<&'static LockClassKey>) {
    attribute.key = class.as_ptr();
}

/// Nobody looks at classes of locks.
#[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
fn set_lock_class(_: &mut bindings::attribute, _: Pin<&'static LockClassKey>) {}

/// What the kernel's reference count is about: freed by [`Folder::release`].
#[repr(C)]
struct Inner<T: Contents> {
    kobject: Opaque<bindings::kobject>,
    attributes: KVec<Attribute<T::File>>,
    contents: T,
}

/// A folder in sysfs.
///
/// Dropping it removes it, with all that was made in it, after waiting for those who are in
/// [`Contents::show`] or [`Contents::store`] of it or of what is in it: so it must not be dropped by one
/// of them, nor with a lock held that they take. Who has a file open that is gone reads and writes no
/// more (`ENODEV`), and holds nothing of the folder.
///
/// `contents` is dropped when the last reference to the kobject goes, which is at once unless the
/// kernel was built to delay that (`CONFIG_DEBUG_KOBJECT_RELEASE`). So what must outlive it, the module
/// for one, has to be kept by something in `contents`.
///
/// # Invariants
///
/// The `Inner` is in a box, its kobject is initialized with [`Self::TYPE`], and one of its references
/// belongs to this value. Since the files were made, `attributes` has not been changed.
pub(crate) struct Folder<T: Contents>(NonNull<Inner<T>>);

// SAFETY: A kobject may be used and removed from any thread, and `contents` is used from several.
unsafe impl<T: Contents> Send for Folder<T> {}
// SAFETY: As above; the fields are not changed.
unsafe impl<T: Contents> Sync for Folder<T> {}

impl<T: Contents> Folder<T> {
    const OPERATIONS: bindings::sysfs_ops =
        bindings::sysfs_ops { show: Some(Self::show), store: Some(Self::store) };

    const TYPE: bindings::kobj_type = bindings::kobj_type {
        release: Some(Self::release),
        sysfs_ops: &Self::OPERATIONS,
        default_groups: core::ptr::null_mut(),
        child_ns_type: None,
        namespace: None,
        get_ownership: None,
    };

    /// Makes a folder in `parent`. May sleep. Files can be used while this runs. `class` is what lock
    /// debugging knows its files by: one for each kind of folder.
    ///
    /// # Errors
    ///
    /// `EEXIST` where there is something of that name, or a file is to be made twice; `ENOENT` where
    /// `parent` has been removed; `ENOMEM`.
    pub(crate) fn new(
        parent: Parent<'_>,
        name: &CStr,
        contents: T,
        files: impl IntoIterator<Item = NewFile<T::File>>,
        class: Pin<&'static LockClassKey>,
    ) -> Result<Self> {
        let mut attributes = KVec::new();
        for NewFile { name, writable, file } in files {
            let name = CString::try_from_fmt(format_args!("{name}"))?;
            let mut attribute: bindings::attribute = pin_init::zeroed();
            attribute.name = name.as_char_ptr();
            attribute.mode = if writable { 0o644 } else { 0o444 };
            set_lock_class(&mut attribute, class);
            attributes.push(Attribute { attribute, name, file }, GFP_KERNEL)?;
        }
        let inner = KBox::new(
            Inner { kobject: Opaque::new(pin_init::zeroed()), attributes, contents },
            GFP_KERNEL,
        )?;
        let inner = NonNull::from(KBox::leak(inner));
        // SAFETY: The memory is zeroed and stays in place until `release`; the type is static. By the
        // invariant of `Parent` that is initialized; the format takes one string.
        let added = unsafe {
            bindings::kobject_init_and_add(
                inner.cast().as_ptr(),
                &Self::TYPE,
                parent.0,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: Initialized also where adding it failed, with the one reference. From here on the
        // attributes stay as they are.
        let folder = Self(inner);
        to_result(added)?;
        for attribute in folder.inner().attributes.iter() {
            // SAFETY: The kobject is in sysfs; the attribute stays until that is removed, in `drop`.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(
                    inner.cast().as_ptr(),
                    core::ptr::from_ref(attribute).cast(),
                    core::ptr::null(),
                )
            })?;
        }
        Ok(folder)
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: By the type invariant; only shared references are made of it.
        unsafe { self.0.as_ref() }
    }

    /// This, for folders to be made in it.
    pub(crate) fn as_parent(&self) -> Parent<'_> {
        // INVARIANT: By the type invariant.
        Parent(self.0.cast().as_ptr(), PhantomData)
    }

    /// # Safety
    ///
    /// Called by sysfs, for a file that [`new`](Self::new) has made: `kobject` begins an [`Inner`],
    /// `attribute` one of its attributes, and `buf` has a page.
    unsafe extern "C" fn show(
        kobject: *mut bindings::kobject,
        attribute: *mut bindings::attribute,
        buf: *mut ffi::c_char,
    ) -> isize {
        // SAFETY: By the safety requirement; sysfs calls it only before the kobject has been removed.
        let (inner, attribute) =
            unsafe { (&*kobject.cast::<Inner<T>>(), &*attribute.cast::<Attribute<T::File>>()) };
        // SAFETY: By the safety requirement.
        let mut out = unsafe { Text::new(buf, PAGE_SIZE) };
        match inner.contents.show(attribute.file, &mut out) {
            Ok(()) => out.len() as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// As for [`show`](Self::show), with `len` bytes at `buf`.
    unsafe extern "C" fn store(
        kobject: *mut bindings::kobject,
        attribute: *mut bindings::attribute,
        buf: *const ffi::c_char,
        len: usize,
    ) -> isize {
        // SAFETY: As in `show`.
        let (inner, attribute) =
            unsafe { (&*kobject.cast::<Inner<T>>(), &*attribute.cast::<Attribute<T::File>>()) };
        // SAFETY: By the safety requirement.
        let bytes = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), len) };
        match inner.contents.store(attribute.file, bytes) {
            Ok(()) => len as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by the kernel when the last reference to a kobject of this type is gone.
    unsafe extern "C" fn release(kobject: *mut bindings::kobject) {
        // SAFETY: `new` has taken it from a box, and nobody has a reference any more.
        drop(unsafe { KBox::from_raw(kobject.cast::<Inner<T>>()) });
    }
}

impl<T: Contents> Drop for Folder<T> {
    fn drop(&mut self) {
        let kobject = self.0.cast().as_ptr();
        // SAFETY: By the type invariant. Removing what was not added, or was removed with the folder that
        // it is in, does nothing; `kobject_put` gives back the reference of this value.
        unsafe {
            bindings::kobject_del(kobject);
            bindings::kobject_put(kobject);
        }
    }
}
