//! What a process may do and hold: set by a guard before its first clone, so all brains have it.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Raises the limit of open files to the hard limit and returns it.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How likely the kernel is to kill this process when memory runs out: −1000 (never) to 1000.
/// Lowering it takes root: call it before [`drop_to`].
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Becomes this user and group for good, with no other groups and no way to gain privileges by
/// exec. Only root can; in a single-threaded process.
pub fn drop_to(uid: Uid, gid: Gid) -> io::Result<()> {
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    no_new_privileges()?;
    // The kernel has given /proc/self to root for the change of user; a brain must be able to
    // list its fds there.
    Ok(prctl::set_dumpable(true)?)
}

/// No exec from here on gives more rights than there are.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_hard_one() {
        let hard = raise_nofile().unwrap();
        let now = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(now, (hard, hard));
    }
}
