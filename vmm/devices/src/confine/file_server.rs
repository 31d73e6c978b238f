//! The system calls of the file server: those of virtiofsd's file system.

use super::calls::{Call, OPEN_FILES};

/// `CLONE_FS`: a working directory and a umask of its own, and no namespace.
const OWN_DIRECTORY: u64 = 0x200;
/// `PR_CAPBSET_READ` and `PR_CAP_AMBIENT`, by which libcap-ng looks at the thread's capabilities.
/// The latter can raise none: what is not inheritable cannot be ambient.
const LOOKS: &[u64] = &[23, 47];

/// Not among them: `open_by_handle_at`, which would lead out of the shared tree. The server
/// keeps descriptors, not handles, of the files that the guest knows.
pub(super) const CALLS: &[Call] = &[
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_pwait),
    Call::Any(libc::SYS_epoll_ctl),
    Call::Any(libc::SYS_epoll_create1),
    // Content.
    Call::Any(libc::SYS_pread64),
    Call::Any(libc::SYS_pwrite64),
    Call::Any(libc::SYS_preadv),
    Call::Any(libc::SYS_pwritev),
    Call::Any(libc::SYS_preadv2),
    Call::Any(libc::SYS_pwritev2),
    Call::Any(libc::SYS_lseek),
    Call::Any(libc::SYS_fallocate),
    Call::Any(libc::SYS_ftruncate),
    Call::Any(libc::SYS_copy_file_range),
    Call::Any(libc::SYS_fsync),
    Call::Any(libc::SYS_fdatasync),
    Call::Any(libc::SYS_syncfs),
    Call::Any(libc::SYS_flock),
    Call::OneOf(libc::SYS_fcntl, 1, OPEN_FILES),
    // Names.
    Call::Any(libc::SYS_open),
    Call::Any(libc::SYS_openat),
    Call::Any(libc::SYS_openat2),
    Call::Any(libc::SYS_getdents64),
    Call::Any(libc::SYS_readlink),
    Call::Any(libc::SYS_readlinkat),
    Call::Any(libc::SYS_mkdirat),
    Call::Any(libc::SYS_mknodat),
    Call::Any(libc::SYS_symlinkat),
    Call::Any(libc::SYS_linkat),
    Call::Any(libc::SYS_unlinkat),
    Call::Any(libc::SYS_renameat),
    Call::Any(libc::SYS_renameat2),
    Call::Any(libc::SYS_name_to_handle_at),
    Call::Any(libc::SYS_fchdir),
    // What others do there: see `virtio::fs::events`.
    Call::Any(libc::SYS_inotify_init1),
    Call::Any(libc::SYS_inotify_add_watch),
    Call::Any(libc::SYS_inotify_rm_watch),
    // Attributes.
    Call::Any(libc::SYS_fstat),
    Call::Any(libc::SYS_newfstatat),
    Call::Any(libc::SYS_statx),
    Call::Any(libc::SYS_statfs),
    Call::Any(libc::SYS_fstatfs),
    Call::Any(libc::SYS_faccessat),
    Call::Any(libc::SYS_faccessat2),
    Call::Any(libc::SYS_fchmod),
    Call::Any(libc::SYS_fchmodat),
    Call::Any(libc::SYS_fchmodat2),
    Call::Any(libc::SYS_fchown),
    Call::Any(libc::SYS_fchownat),
    Call::Any(libc::SYS_utimensat),
    Call::Any(libc::SYS_setxattr),
    Call::Any(libc::SYS_getxattr),
    Call::Any(libc::SYS_listxattr),
    Call::Any(libc::SYS_removexattr),
    Call::Any(libc::SYS_fsetxattr),
    Call::Any(libc::SYS_fgetxattr),
    Call::Any(libc::SYS_flistxattr),
    Call::Any(libc::SYS_fremovexattr),
    // As whom: a request is served as the user who makes it.
    Call::Any(libc::SYS_getuid),
    Call::Any(libc::SYS_getgid),
    Call::Any(libc::SYS_geteuid),
    Call::Any(libc::SYS_getegid),
    Call::Any(libc::SYS_setresuid),
    Call::Any(libc::SYS_setresgid),
    Call::Any(libc::SYS_setgroups),
    Call::Any(libc::SYS_umask),
    Call::Any(libc::SYS_capget),
    Call::Any(libc::SYS_capset),
    Call::OneOf(libc::SYS_prctl, 0, LOOKS),
    Call::OneOf(libc::SYS_unshare, 0, &[OWN_DIRECTORY]),
];
