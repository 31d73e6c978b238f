//! The columns of `ps`'s options for whole formats.

/// What options like `-f` and `u` ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is an option of its own.
pub(super) struct Format {
    pub(super) full: bool,
    pub(super) extra_full: bool,
    pub(super) long: bool,
    pub(super) jobs: bool,
    /// With `long`: no flags, and resident memory in place of addresses.
    pub(super) short: bool,
    pub(super) bsd: Option<Bsd>,
}

/// The formats of options without a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bsd {
    /// Nothing but such options was given.
    Plain,
    User,
    Jobs,
    Long,
    Memory,
    Signals,
}

impl Format {
    /// Columns, each with its header where it is not the usual one.
    pub(super) fn columns(self) -> &'static str {
        match self {
            Self { bsd: Some(bsd), .. } => bsd.columns(),
            Self { extra_full: true, .. } => "user=UID,pid,ppid,c,sz,rss,psr,stime,tname,time,args=CMD",
            Self { long: true, full: true, short: true, .. } => {
                "s,user=UID,pid,ppid,c,opri,ni,rss,sz,wchan,stime,tname,time,args=CMD"
            }
            Self { long: true, full: true, .. } => {
                "f,s,user=UID,pid,ppid,c,opri,ni,addr,sz,wchan,stime,tname,time,args=CMD"
            }
            Self { long: true, short: true, .. } => {
                "s,uid,pid,ppid,c,opri,ni,rss,sz,wchan,tname,time,ucmd=CMD"
            }
            Self { long: true, .. } => "f,s,uid,pid,ppid,c,opri,ni,addr,sz,wchan,tname,time,ucmd=CMD",
            Self { full: true, jobs: true, .. } => "user=UID,pid,ppid,pgid,sid,c,stime,tname,time,args=CMD",
            Self { full: true, .. } => "user=UID,pid,ppid,c,stime,tname,time,args=CMD",
            Self { jobs: true, .. } => "pid,pgid,sid,tname,time,ucmd=CMD",
            _ => "pid,tname,time,ucmd=CMD",
        }
    }
}

impl Bsd {
    fn columns(self) -> &'static str {
        match self {
            Self::Plain => "pid,tname,stat,bsdtime,args",
            Self::User => "user,pid,pcpu,pmem,vsz,rss,tname,stat,bsdstart,bsdtime,args",
            Self::Jobs => "ppid,pid,pgid,sid,tname,tpgid,stat,uid,bsdtime,args",
            Self::Long => "f,uid,pid,ppid,priority,ni,vsz,rss,wchan,stat,tname,bsdtime,args",
            Self::Memory => "pid,tname,stat,bsdtime,majflt,vsz,rss,pmem,args",
            Self::Signals => "uid,pid,pending,blocked,ignored,caught,stat,tname,bsdtime,args",
        }
    }
}
