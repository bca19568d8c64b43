//! The inside of the sandbox: build the walls around this very process, start Python, wait for it.
//!
//! Order matters. An ordinary user first makes a user namespace (which gives the right to mount, in there only) and then
//! the new root. Root makes the new root first, with rights over files that others cannot even see, then becomes a user
//! that nobody else is, and goes into a user namespace like everybody else: the limit on processes is counted per user
//! and namespace and does not hold for root at all. Capabilities vanish when Python is executed, since it is not root in
//! its namespace either; `no_new_privs` keeps it so.

use super::process::Order;
use super::{BY_SIGNAL, FAILED, PASSED, TIMED_OUT, forbidden};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::time::TimeValLike;
use nix::unistd::{Gid, Uid, getegid, geteuid, getpid, pivot_root, setgroups, sethostname, setresgid, setresuid};
use std::fs;
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user inside.
const INSIDE: u32 = 1000;
/// Users that root's cells become: above every user that systems or containers hand out, below 2^31.
const FIRST_USER: u32 = 0x7800_0000;
/// Longest order.
const MOST_BYTES: u64 = 64 << 20;
const NONE: Option<&str> = None;

/// Reads the program, empties the namespace it runs in, runs it, and tells by the exit code whether the end was reached.
const WRAPPER: &str = "import os, sys\n\
    def main():\n\
    \tcode = int(sys.argv.pop())\n\
    \tsys.orig_argv = []\n\
    \twith open('/tmp/program.py', encoding='utf-8') as f: source = f.read()\n\
    \texec(compile(source, 'program.py', 'exec'), {})\n\
    \tsys.stdout.flush()\n\
    \tos._exit(code)\n\
    main()\n";

/// Be a cell.
pub(super) fn run() -> Result<u8, String> {
    let order = order()?;
    let proc = open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| format!("/proc: {e}"))?;
    // Readable by its owner although it has changed users; and the first to go when the machine runs out of memory.
    write(&proc, "self/oom_score_adj", "1000")?;
    if geteuid().is_root() {
        wall("a mount namespace (root without the right to make one cannot give up being root either)", unshare(CloneFlags::CLONE_NEWNS))?;
        let user = FIRST_USER + u32::try_from(getpid().as_raw()).unwrap_or(0);
        new_root(&order, user)?;
        wall("other groups", setgroups(&[]))?;
        wall("another group", setresgid(Gid::from_raw(user), Gid::from_raw(user), Gid::from_raw(user)))?;
        wall("another user", setresuid(Uid::from_raw(user), Uid::from_raw(user), Uid::from_raw(user)))?;
        wall("its own process files", prctl::set_dumpable(true))?;
        wall("namespaces", unshare(namespaces()))?;
        identity(&proc, user, user)?;
    } else {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        wall("namespaces", unshare(namespaces() | CloneFlags::CLONE_NEWNS))?;
        identity(&proc, user, group)?;
        new_root(&order, INSIDE)?;
    }
    drop(proc);
    wall("its own host name", sethostname("sandbox"))?;
    fs::write("/tmp/program.py", &order.program).map_err(|e| format!("the program does not fit into the temporary folder: {e}"))?;
    wall("no new privileges", prctl::set_no_new_privs())?;
    forbidden::forbid()?;
    limits(&order)?;
    let python = Command::new(&order.python)
        .args(["-I", "-B", "-X", "utf8", "-c", WRAPPER, &order.end_code.to_string()])
        .env_clear()
        .envs([("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("OMP_NUM_THREADS", "1")])
        .env("PYTHONHASHSEED", "0")
        .current_dir("/tmp")
        .stdin(Stdio::null())
        // A signal to its own group must not reach this process, which watches the clock.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{}: cannot start in the sandbox: {e}", order.python.display()))?;
    wait(python, &order)
}

fn order() -> Result<Order, String> {
    let mut line = String::new();
    // Whatever the reader buffers beyond the line is nothing: the other side only ever closes after it.
    std::io::stdin().lock().take(MOST_BYTES).read_line(&mut line).map_err(|e| format!("order: {e}"))?;
    serde_json::from_str(&line).map_err(|e| format!("order: {e}"))
}

fn wall(what: &str, result: Result<(), Errno>) -> Result<(), String> {
    result.map_err(|e| format!("cannot isolate generated code here: the system refuses {what}: {}", e.desc()))
}

fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
}

fn write(proc: &OwnedFd, name: &str, text: &str) -> Result<(), String> {
    let opened = openat(proc, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| format!("/proc/{name}: {e}"))?;
    fs::File::from(opened).write_all(text.as_bytes()).map_err(|e| format!("/proc/{name}: {e}"))
}

/// Who we are in the user namespace: somebody without rights.
fn identity(proc: &OwnedFd, user: u32, group: u32) -> Result<(), String> {
    write(proc, "self/setgroups", "deny")?;
    write(proc, "self/uid_map", &format!("{INSIDE} {user} 1"))?;
    write(proc, "self/gid_map", &format!("{INSIDE} {group} 1"))
}

/// A root of read-only mounts and one temporary folder; the old one is gone afterwards.
fn new_root(order: &Order, owner: u32) -> Result<(), String> {
    let root = &order.root;
    let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    wall("private mounts", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))?;
    wall("an empty root", mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("size=1m,nr_inodes=512,mode=0755")))?;
    let made = |path: &Path, result: std::io::Result<()>| result.map_err(|e| format!("{}: {e}", path.display()));
    for path in &order.readable {
        let place = at(path);
        // Systems that keep everything under /usr have links at the top.
        if let Ok(target) = fs::read_link(path) {
            made(&place, std::os::unix::fs::symlink(target, &place))?;
        } else {
            made(&place, fs::create_dir_all(&place))?;
            show(path, &place, MsFlags::MS_NODEV)?;
        }
    }
    let dev = at(Path::new("/dev"));
    made(&dev, fs::create_dir(&dev))?;
    for name in ["null", "zero", "urandom", "random"] {
        let (device, place) = (PathBuf::from("/dev").join(name), dev.join(name));
        made(&place, fs::write(&place, ""))?;
        wall("/dev", mount(Some(&device), &place, NONE, MsFlags::MS_BIND, NONE))?;
    }
    let tmp = at(Path::new("/tmp"));
    made(&tmp, fs::create_dir(&tmp))?;
    let bounds = format!("size={},nr_inodes=1024,mode=0700,uid={owner},gid={owner}", order.limits.disk_bytes);
    wall("a temporary folder", mount(Some("tmpfs"), &tmp, Some("tmpfs"), flags, Some(bounds.as_str())))?;
    made(root, fs::set_permissions(root, fs::Permissions::from_mode(0o555)))?;
    made(root, std::env::set_current_dir(root))?;
    wall("a new root", pivot_root(".", "."))?;
    wall("leaving the old root", umount2(".", MntFlags::MNT_DETACH))?;
    made(Path::new("/"), std::env::set_current_dir("/"))?;
    wall("a read-only root", mount(NONE, "/", NONE, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE))
}

/// Mount `from` at `to`, read-only. Not recursive: what is mounted below `from` might not become read-only.
fn show(from: &Path, to: &Path, flags: MsFlags) -> Result<(), String> {
    let name = from.display().to_string();
    wall(&name, mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE))?;
    // Flags that the original has are locked in a user namespace and must be repeated.
    let has = statvfs(to).map_err(|e| format!("{name}: {e}"))?.flags();
    let mut again = flags | MsFlags::MS_NOSUID | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if has.contains(FsFlags::ST_NOEXEC) {
        again |= MsFlags::MS_NOEXEC;
    }
    wall(&name, mount(NONE, to, NONE, again, NONE))
}

fn limits(order: &Order) -> Result<(), String> {
    let limits = &order.limits;
    let all = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_CPU, limits.processor_seconds),
        (Resource::RLIMIT_FSIZE, limits.disk_bytes),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_NPROC, limits.processes + 1), // and this one
        (Resource::RLIMIT_AS, limits.memory_bytes),
    ];
    all.into_iter().try_for_each(|(resource, most)| wall("a resource limit", setrlimit(resource, most, most)))
}

/// Until the program ends, the clock runs out, or the other side of standard input is gone.
fn wait(mut python: Child, order: &Order) -> Result<u8, String> {
    let deadline = Instant::now() + Duration::from_secs_f64(order.limits.seconds);
    let stdin = std::io::stdin();
    let (mut stopped, mut late) = (false, false);
    let status = loop {
        if let Some(status) = python.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if Instant::now() >= deadline && !stopped {
            late = true;
            stopped = true;
            python.kill().map_err(|e| e.to_string())?;
        }
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(if stopped { 0u8 } else { 3 })) {
            Ok(n) if n > 0 && !stopped => {
                stopped = true;
                python.kill().map_err(|e| e.to_string())?;
            }
            _ if stopped => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    };
    let signal = status.signal().and_then(|s| u8::try_from(s).ok());
    if signal == Some(9) && !stopped {
        let used = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| e.to_string())?;
        let milliseconds = used.user_time().num_milliseconds() + used.system_time().num_milliseconds();
        // The limit is counted in ticks of the kernel's clock, which on a busy machine runs ahead of what was used by a good part.
        let limit = i64::try_from(order.limits.processor_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        late = milliseconds.saturating_mul(10) >= limit.saturating_mul(7);
    }
    Ok(match (late, status.code(), signal) {
        (true, ..) => TIMED_OUT,
        (_, Some(code), _) if code == i32::from(order.end_code) => PASSED,
        (_, Some(_), _) => FAILED,
        (_, None, Some(signal)) => BY_SIGNAL.saturating_add(signal),
        (_, None, None) => FAILED,
    })
}
