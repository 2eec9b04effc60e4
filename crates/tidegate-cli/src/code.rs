//! Code that was used once: a node reads its settings, opens its store and shakes hands with code that it does
//! not need afterwards, and that counts as its resident memory for as long as nobody else wants the room.

use std::time::Duration;

/// How often code that is not in use is let go.
const EVERY: Duration = Duration::from_secs(30);

/// Lets go of code again and again, from the time on when a node has met its first peers.
pub(crate) async fn let_go_at_times() {
    loop {
        tokio::time::sleep(EVERY).await;
        let_go();
    }
}

/// Takes the pages of the program and its libraries out of this process's memory. Those that are used again
/// are in the system's cache of files: getting them back costs about a microsecond for each 64 KiB.
#[cfg(target_os = "linux")]
fn let_go() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, end) in code(&maps) {
        let length = end - start;
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: these pages may be read and executed only, are of a file, and none of them was written to:
        // what is read there afterwards is what was read before.
        #[allow(unsafe_code, reason = "there is no other way to say it to the system")]
        let done = unsafe { rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!("code stays in memory: {error}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn let_go() {}

/// From where to where the mappings reach that are of a file's code and hold nothing else (proc_pid_smaps(5)):
/// a debugger, or a library that hooks functions, writes to copies of its pages.
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
            // The mapping follows directly on the last one: extend that.
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
        // All that this uses was let go.
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
        // Somebody has written to it.
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
            // One of code before it is another mapping.
            assert_eq!(mapped(&format!("{line}\n{other}"), "0 kB"), [], "{other}");
        }
    }
}
