//! Ceph's own client library, librbd, loaded when the first image is opened: so the program builds and runs without
//! Ceph. All that the compiler cannot check is in this file.
//!
//! Every call blocks. A call that the cluster does not answer ends with an error after the time that [`Cluster::connect`]
//! was given.

#![allow(unsafe_code, reason = "a C library")]

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How much of an image is asked about at once, for its extents.
pub(super) const WINDOW_BYTES: u64 = 64 << 20;

type Handle = *mut c_void;
/// Offset, length, whether there is data, and what the caller passed on. A negative result ends the search.
type DiffCallback = unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

/// One snapshot, as librbd lists it.
#[repr(C)]
struct SnapshotInfo {
    id: u64,
    size: u64,
    name: *const c_char,
}

/// Loads the functions by their names in the libraries, with the types of Ceph's header files.
macro_rules! functions {
    (
        rados { $($of_rados:ident: fn($($rados_argument:ty),*) -> $rados_result:ty;)* }
        rbd { $($of_rbd:ident: fn($($rbd_argument:ty),*) -> $rbd_result:ty;)* }
    ) => {
        struct Functions {
            $($of_rados: unsafe extern "C" fn($($rados_argument),*) -> $rados_result,)*
            $($of_rbd: unsafe extern "C" fn($($rbd_argument),*) -> $rbd_result,)*
            /// The functions are part of them.
            _libraries: [Library; 2],
        }

        impl Functions {
            fn load() -> Result<Self, libloading::Error> {
                // SAFETY: Ceph's libraries run no code when they are loaded that others could feel.
                let rados = unsafe { Library::new("librados.so.2") }?;
                // SAFETY: as above.
                let rbd = unsafe { Library::new("librbd.so.1") }?;
                Ok(Self {
                    // SAFETY: the types are those of `librados.h` and `librbd.h`, which Ceph keeps for all versions
                    // of `librados.so.2` and `librbd.so.1`.
                    $($of_rados: unsafe { *rados.get(concat!(stringify!($of_rados), "\0").as_bytes())? },)*
                    // SAFETY: as above.
                    $($of_rbd: unsafe { *rbd.get(concat!(stringify!($of_rbd), "\0").as_bytes())? },)*
                    _libraries: [rados, rbd],
                })
            }
        }
    };
}

functions! {
    rados {
        rados_create2: fn(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
        rados_conf_read_file: fn(Handle, *const c_char) -> c_int;
        rados_conf_set: fn(Handle, *const c_char, *const c_char) -> c_int;
        rados_connect: fn(Handle) -> c_int;
        rados_shutdown: fn(Handle) -> ();
        rados_cluster_fsid: fn(Handle, *mut c_char, usize) -> c_int;
        rados_ioctx_create: fn(Handle, *const c_char, *mut Handle) -> c_int;
        rados_ioctx_destroy: fn(Handle) -> ();
        rados_ioctx_get_id: fn(Handle) -> i64;
        rados_set_pool_full_try: fn(Handle) -> ();
    }
    rbd {
        rbd_open: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_open_read_only: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_close: fn(Handle) -> c_int;
        rbd_get_size: fn(Handle, *mut u64) -> c_int;
        rbd_get_id: fn(Handle, *mut c_char, usize) -> c_int;
        rbd_snap_create: fn(Handle, *const c_char) -> c_int;
        rbd_snap_remove: fn(Handle, *const c_char) -> c_int;
        rbd_snap_list: fn(Handle, *mut SnapshotInfo, *mut c_int) -> c_int;
        rbd_snap_list_end: fn(*mut SnapshotInfo) -> ();
        rbd_read: fn(Handle, u64, usize, *mut c_char) -> isize;
        rbd_write: fn(Handle, u64, usize, *const c_char) -> isize;
        rbd_write_zeroes: fn(Handle, u64, usize, c_int, c_int) -> isize;
        rbd_flush: fn(Handle) -> c_int;
        rbd_diff_iterate2: fn(Handle, *const c_char, u64, u64, u8, u8, DiffCallback, *mut c_void) -> c_int;
    }
}

/// The functions, or why there are none.
fn functions() -> io::Result<&'static Functions> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    let loaded = FUNCTIONS.get_or_init(|| Functions::load().map_err(|error| error.to_string()));
    loaded.as_ref().map_err(|why| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "Ceph's client library cannot be loaded: {why}; install librbd1 (Debian, Ubuntu) or librbd (RPM)"
            ),
        )
    })
}

/// The error of a call that returned less than 0.
fn check(result: c_int) -> io::Result<c_int> {
    check_count(result as isize).map(|_| result)
}

fn check_count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let code = result
            .checked_neg()
            .and_then(|code| i32::try_from(code).ok());
        match code.unwrap_or(i32::MAX) {
            libc::ESHUTDOWN => io::Error::new(
                io::ErrorKind::NotConnected,
                "Ceph has shut this client out, as another one took over what it held",
            ),
            code => io::Error::from_raw_os_error(code),
        }
    })
}

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(|_| io::Error::other("a name has a zero byte in it"))
}

/// A connection to a cluster. It renews itself.
pub(super) struct Cluster {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: librados locks what its handles share.
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

impl Cluster {
    /// Connects as a cephx user (without `client.`). `timeout` is the longest time of one request to a monitor or an OSD.
    pub(super) fn connect(
        conf: &Path,
        user: &str,
        keyring: Option<&Path>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let functions = functions()?;
        let mut handle = null_mut();
        let (cluster_name, name) = (text("ceph")?, text(&format!("client.{user}"))?);
        // SAFETY: the strings live until the call returns, and the handle is the library's from then on.
        check(unsafe {
            (functions.rados_create2)(&raw mut handle, cluster_name.as_ptr(), name.as_ptr(), 0)
        })?;
        let cluster = Self { functions, handle };
        let path = text(&conf.to_string_lossy())?;
        // SAFETY: the handle was created above and is not shut down before `drop`.
        check(unsafe { (functions.rados_conf_read_file)(handle, path.as_ptr()) })?;
        let seconds = timeout.as_secs().max(1).to_string();
        cluster.set("rados_osd_op_timeout", &seconds)?;
        cluster.set("rados_mon_op_timeout", &seconds)?;
        cluster.set("client_mount_timeout", &seconds)?;
        // No operator reads what a client library would log.
        cluster.set("log_to_stderr", "false")?;
        cluster.set("admin_socket", "")?;
        if let Some(keyring) = keyring {
            cluster.set("keyring", &keyring.to_string_lossy())?;
        }
        // SAFETY: as above.
        check(unsafe { (functions.rados_connect)(handle) })?;
        Ok(cluster)
    }

    fn set(&self, option: &str, value: &str) -> io::Result<()> {
        let (option, value) = (text(option)?, text(value)?);
        // SAFETY: the handle lives as long as `self`, and the strings until the call returns.
        let set = unsafe {
            (self.functions.rados_conf_set)(self.handle, option.as_ptr(), value.as_ptr())
        };
        check(set).map(drop)
    }

    /// The cluster's own id.
    pub(super) fn id(&self) -> io::Result<String> {
        let mut buffer = [0_u8; 64];
        // SAFETY: the library writes at most as many bytes as the buffer has, a zero byte at the end.
        check(unsafe {
            (self.functions.rados_cluster_fsid)(
                self.handle,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        })?;
        from_buffer(&buffer)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: pools hold the cluster, so none of them is left.
        unsafe { (self.functions.rados_shutdown)(self.handle) }
    }
}

fn from_buffer(buffer: &[u8]) -> io::Result<String> {
    let text = CStr::from_bytes_until_nul(buffer).map_err(io::Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

/// A pool of a cluster.
pub(super) struct Pool {
    cluster: Arc<Cluster>,
    handle: Handle,
}

// SAFETY: librados locks what its handles share.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn open(cluster: Arc<Cluster>, name: &str) -> io::Result<Self> {
        let mut handle = null_mut();
        let name = text(name)?;
        // SAFETY: the cluster is connected, and kept as long as the pool.
        check(unsafe {
            (cluster.functions.rados_ioctx_create)(cluster.handle, name.as_ptr(), &raw mut handle)
        })?;
        // A full pool is an error at once, and not a call that waits for room.
        // SAFETY: the handle was created above.
        unsafe { (cluster.functions.rados_set_pool_full_try)(handle) }
        Ok(Self { cluster, handle })
    }

    /// The pool's own number.
    pub(super) fn id(&self) -> i64 {
        // SAFETY: the handle lives as long as `self`.
        unsafe { (self.cluster.functions.rados_ioctx_get_id)(self.handle) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: images hold the pool, so none of them is left.
        unsafe { (self.cluster.functions.rados_ioctx_destroy)(self.handle) }
    }
}

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// The image as it was at a snapshot.
    Snapshot(&'a str),
    /// The image as it is now, to look at it.
    Look,
    /// The image as it is now, to write it or to make snapshots.
    Write,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) id: u64,
    pub(super) name: String,
}

/// An image that is open. Many threads may use it at once.
pub(super) struct Image {
    pool: Arc<Pool>,
    handle: Handle,
}

// SAFETY: librbd locks what its handles share.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    pub(super) fn open(pool: Arc<Pool>, name: &str, access: Access<'_>) -> io::Result<Self> {
        let functions = pool.cluster.functions;
        let mut handle = null_mut();
        let name = text(name)?;
        let snapshot = match access {
            Access::Snapshot(snapshot) => Some(text(snapshot)?),
            Access::Look | Access::Write => None,
        };
        let snapshot = snapshot
            .as_ref()
            .map_or(std::ptr::null(), |name| name.as_ptr());
        let open = match access {
            Access::Write => functions.rbd_open,
            Access::Snapshot(_) | Access::Look => functions.rbd_open_read_only,
        };
        // SAFETY: the pool is open, and kept as long as the image; the strings live until the call returns.
        check(unsafe { open(pool.handle, name.as_ptr(), &raw mut handle, snapshot) })?;
        Ok(Self { pool, handle })
    }

    fn functions(&self) -> &'static Functions {
        self.pool.cluster.functions
    }

    pub(super) fn pool(&self) -> Arc<Pool> {
        self.pool.clone()
    }

    /// Bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        let mut size = 0;
        // SAFETY: the handle lives as long as `self`.
        check(unsafe { (self.functions().rbd_get_size)(self.handle, &raw mut size) })?;
        Ok(size)
    }

    /// The image's own id, which no other image of the pool gets.
    pub(super) fn id(&self) -> io::Result<String> {
        let mut buffer = [0_u8; 128];
        // SAFETY: the library writes at most as many bytes as the buffer has, a zero byte at the end.
        check(unsafe {
            (self.functions().rbd_get_id)(self.handle, buffer.as_mut_ptr().cast(), buffer.len())
        })?;
        from_buffer(&buffer)
    }

    pub(super) fn create_snapshot(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: the handle lives as long as `self`.
        check(unsafe { (self.functions().rbd_snap_create)(self.handle, name.as_ptr()) }).map(drop)
    }

    pub(super) fn remove_snapshot(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: the handle lives as long as `self`.
        check(unsafe { (self.functions().rbd_snap_remove)(self.handle, name.as_ptr()) }).map(drop)
    }

    /// All snapshots, in the order of their ids.
    pub(super) fn snapshots(&self) -> io::Result<Vec<Snapshot>> {
        let mut room: c_int = 16;
        loop {
            let mut list = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
            // SAFETY: the list has as much room as is said. If it is too small, the library says how much it needs.
            let listed = unsafe {
                (self.functions().rbd_snap_list)(self.handle, list.as_mut_ptr(), &raw mut room)
            };
            match check(listed) {
                Err(error) if error.raw_os_error() == Some(libc::ERANGE) => continue,
                Err(error) => return Err(error),
                Ok(count) => {
                    // SAFETY: the library has filled so many entries.
                    unsafe { list.set_len(usize::try_from(count).unwrap_or(0)) };
                    let mut found: Vec<Snapshot> = list.iter().map(snapshot).collect();
                    if !list.is_empty() {
                        // SAFETY: the list is the library's, with the entry at its end that has no name.
                        unsafe { (self.functions().rbd_snap_list_end)(list.as_mut_ptr()) };
                    }
                    found.sort_by_key(|snapshot| snapshot.id);
                    return Ok(found);
                }
            }
        }
    }

    /// Fills the buffer. Both ends lie within the image.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            // SAFETY: the library writes at most as many bytes as the buffer has.
            let read = unsafe {
                (self.functions().rbd_read)(
                    self.handle,
                    offset + done as u64,
                    rest.len(),
                    rest.as_mut_ptr().cast(),
                )
            };
            match check_count(read)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            // SAFETY: the library reads at most as many bytes as there are.
            let written = unsafe {
                (self.functions().rbd_write)(
                    self.handle,
                    offset + done as u64,
                    rest.len(),
                    rest.as_ptr().cast(),
                )
            };
            match check_count(written)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Makes a range read as zeros, and gives its room back where that is possible.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        // SAFETY: the handle lives as long as `self`.
        let zeroed =
            unsafe { (self.functions().rbd_write_zeroes)(self.handle, range.start, length, 0, 0) };
        check_count(zeroed).map(drop)
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        // SAFETY: the handle lives as long as `self`.
        check(unsafe { (self.functions().rbd_flush)(self.handle) }).map(drop)
    }

    /// The parts of a range that differ from an earlier snapshot; without one, those that have data, in the image or in
    /// the image that it was cloned from. Ascending, and they do not touch each other.
    pub(super) fn differences(
        &self,
        since: Option<&str>,
        range: Range<u64>,
    ) -> io::Result<Vec<Range<u64>>> {
        unsafe extern "C" fn note(at: u64, length: usize, _: c_int, into: *mut c_void) -> c_int {
            // SAFETY: it is the list below, which only this call uses until it returns.
            let found = unsafe { &mut *into.cast::<Vec<Range<u64>>>() };
            found.push(at..at + length as u64);
            0
        }
        let since_name = since.map(text).transpose()?;
        let from = since_name
            .as_ref()
            .map_or(std::ptr::null(), |name| name.as_ptr());
        let mut found: Vec<Range<u64>> = Vec::new();
        // SAFETY: the library calls `note` only until the call returns, from one thread at a time.
        check(unsafe {
            (self.functions().rbd_diff_iterate2)(
                self.handle,
                from,
                range.start,
                range.end - range.start,
                u8::from(since.is_none()),
                0,
                note,
                (&raw mut found).cast(),
            )
        })?;
        Ok(merged(found))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the handle is not used after this.
        unsafe { (self.functions().rbd_close)(self.handle) };
    }
}

fn snapshot(info: &SnapshotInfo) -> Snapshot {
    // SAFETY: each entry that was listed has a name, which is the library's until the end of the list.
    let name = unsafe { CStr::from_ptr(info.name) };
    Snapshot {
        id: info.id,
        name: name.to_string_lossy().into_owned(),
    }
}

/// Ascending, and with those that touch put together.
fn merged(mut found: Vec<Range<u64>>) -> Vec<Range<u64>> {
    found.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(found.len());
    for range in found {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn parts_that_touch_are_one() {
        assert_eq!(merged(vec![8..9, 0..4, 4..6, 5..7]), vec![0..7, 8..9]);
        assert!(merged(Vec::new()).is_empty());
    }
}
