//! System calls that a cell answers with "not permitted".
//!
//! A second wall: most of these need capabilities that the program does not have. What really matters here: sockets
//! other than Unix ones (some families know no namespaces), new namespaces (whose file systems would have no size bound),
//! memory that no limit counts (anonymous files, System V segments), other processes' memory, and the kernel's log.

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

const CALLS: [c_long; 44] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_inotify_init1,
    libc::SYS_io_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setns,
    libc::SYS_shmget,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Install the filters for this process and all it starts.
pub(super) fn forbid() -> Result<(), String> {
    let not_permitted = SeccompAction::Errno(libc::EPERM as u32);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
    let new_namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let clone: Result<Vec<_>, String> = new_namespaces.iter().map(|&flag| rule(0, SeccompCmpOp::MaskedEq(flag as u64), flag as u64)).collect();
    rules.insert(libc::SYS_clone, clone?);
    let mut clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    if cfg!(target_arch = "x86_64") {
        second_numbers(&mut rules);
        clone3.insert(libc::SYS_clone3 | X32, Vec::new());
    }
    install(rules, not_permitted)?;
    // The flags of clone3 lie in memory where no filter can look; the C library falls back to clone.
    install(clone3, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// The bit that marks calls of the x32 interface.
const X32: c_long = 0x4000_0000;
/// Numbers that only x32 has: ptrace, kexec_load, process_vm_readv, process_vm_writev, io_setup.
const X32_ONLY: [c_long; 5] = [521, 528, 539, 540, 543];

/// Kernels for x86-64 may take every call under a second number, which the filter's check of the processor lets through.
fn second_numbers(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) {
    let again: Vec<_> = rules.iter().map(|(call, conditions)| (call | X32, conditions.clone())).collect();
    rules.extend(again);
    rules.extend(X32_ONLY.map(|call| (call | X32, Vec::new())));
}

fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

fn install(rules: BTreeMap<i64, Vec<SeccompRule>>, action: SeccompAction) -> Result<(), String> {
    let arch = std::env::consts::ARCH;
    let target = arch.try_into().map_err(|_| format!("no system call filter for processors of type {arch}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, target).map_err(|e| e.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| format!("the kernel takes no system call filter: {e}"))
}
