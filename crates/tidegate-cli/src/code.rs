//! Releases the memory of code that is used only once. Reading the settings, opening the store and
//! handshakes run code that is not needed afterwards, but counts as resident memory until the
//! system needs the room.

use std::time::Duration;

/// How often unused code is released.
const EVERY: Duration = Duration::from_secs(30);

/// Releases code periodically, beginning when a node has met its first peers.
pub(crate) async fn let_go_at_times() {
    loop {
        tokio::time::sleep(EVERY).await;
        let_go();
    }
}

/// Removes the pages of the program and its libraries from this process's memory. Pages that are
/// used again come from the system's file cache, which takes about a microsecond for each 64 KiB.
#[cfg(target_os = "linux")]
fn let_go() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, end) in code(&maps) {
        let length = end - start;
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: these pages are mapped from a file, can only be read and executed, and none has
        // been written to: reading them later gives the same content.
        #[allow(unsafe_code, reason = "there is no other way to say it to the system")]
        let done = unsafe { rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!("code stays in memory: {error}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn let_go() {}

/// The address ranges of mappings that contain only unmodified code of a file (proc_pid_smaps(5)):
/// a debugger, or a library that hooks functions, writes to private copies of pages.
#[cfg(target_os = "linux")]
fn code(maps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in maps.lines() {
        let Some((name, size)) = line.split_once(':').filter(|(name, _)| !name.contains(' '))
        else {
            mapping = mapping_of_code(line);
            continue;
        };
        match name {
            "Anonymous" | "Swap" if size.trim() != "0 kB" => mapping = None,
            // It comes after the other fields.
            "Swap" => found.extend(mapping.take()),
            _ => {}
        }
    }
    found
}

#[cfg(target_os = "linux")]
fn mapping_of_code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, access, inode) = (words.next()?, words.next()?, words.nth(2)?);
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (access == "r-xp" && inode != "0" && start < end).then_some((start, end))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn released_code_still_runs() {
        let before = resident();
        let_go();
        assert!(resident() < before, "{} KiB before, {} after", before, resident());
        // All code that this uses was released.
        let numbers = (0..1000_u32).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(numbers.iter().map(|text| text.parse::<u32>().unwrap()).sum::<u32>(), 499_500);
    }

    #[test]
    fn only_file_backed_code_is_released() {
        let mapped = |line: &str, anonymous: &str| {
            code(&format!("{line}\nSize: 4 kB\nAnonymous: {anonymous}\nSwap: 0 kB\nLocked: 0 kB\n"))
        };
        let line = "7f00a000-7f00b000 r-xp 00001000 08:02 173521 /usr/bin/a program (deleted)";
        assert_eq!(mapped(line, "       0 kB"), [(0x7f00_a000, 0x7f00_b000)]);
        // A page has been written to.
        assert_eq!(mapped(line, "       4 kB"), []);
        assert_eq!(code(line), [], "what is not told is not known");
        assert_eq!(code(&format!("{line}\nAnonymous: 0 kB\nSwap: 8 kB\n")), [], "it is elsewhere");
        for other in [
            "7f00a000-7f00b000 rwxp 00001000 08:02 173521 /usr/bin/x",
            "7f00a000-7f00b000 r--p 00001000 08:02 173521 /usr/bin/x",
            "7ffd3000-7ffd5000 r-xp 00000000 00:00 0 [vdso]",
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]",
            "7f00a000-7f00b000 r-xp",
            "",
        ] {
            assert_eq!(mapped(other, "0 kB"), [], "{other}");
            // The mapping before it is another one.
            assert_eq!(mapped(&format!("{line}\n{other}"), "0 kB"), [], "{other}");
        }
    }
}
