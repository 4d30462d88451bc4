//! Threads and cores: binding them, and whether one was taken away.

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

/// How often the system has taken the core from the calling thread for another.
#[cfg(target_os = "linux")]
pub(crate) fn times_put_aside() -> i64 {
    // SAFETY: numbers, for which 0 is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the numbers live during the call.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if code == 0 { usage.ru_nivcsw } else { 0 }
}

/// Other systems do not say it of a thread.
#[cfg(not(target_os = "linux"))]
pub(crate) fn times_put_aside() -> i64 {
    0
}
