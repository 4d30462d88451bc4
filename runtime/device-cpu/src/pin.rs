//! Binding threads to cores.

/// Binds the calling thread to `core`. Whether that worked.
#[cfg(target_os = "linux")]
pub(crate) fn pin_to(core: usize) -> bool {
    // SAFETY: a set of bits, for which 0 is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return false;
    }
    // SAFETY: the core is one of the set's bits as just checked.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives during the call; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0 }
}

/// Other systems have no such call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_to(_core: usize) -> bool {
    false
}
