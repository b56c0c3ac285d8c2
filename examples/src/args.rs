//! Command lines: a one-line error with exit code 2 for whatever makes no sense, found out before anything is measured.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

/// The arguments. Ends the process when there is nothing to run: code 0 after `--help`, code 2 after nonsense.
pub fn parse<P: Parser>() -> P {
    P::try_parse().unwrap_or_else(|e| {
        if e.kind() == ErrorKind::DisplayHelp {
            e.exit();
        }
        let text = e.to_string();
        refuse(text.lines().next().unwrap_or("bad arguments").trim_start_matches("error: "));
    })
}

/// One line on stderr, exit code 2.
pub fn refuse(why: &str) -> ! {
    eprintln!("error: {why} (see --help)");
    std::process::exit(2);
}

/// Cargo's target directory, from where this program lies (`TARGET/PROFILE/examples/NAME`); else `./target`.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    match exe.parent() {
        Some(dir) if dir.ends_with("examples") => dir.ancestors().nth(2).map(Path::to_path_buf),
        _ => None,
    }
    .unwrap_or_else(|| PathBuf::from("target"))
}

/// Makes the folder and tries a file in it.
///
/// # Errors
/// Why nothing can be written there.
pub fn writable_dir(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make this folder: {e}"))?;
    try_file(dir.join(format!(".probe-{}", std::process::id())))
}

/// Makes the file's folder, and tries a file beside `path`, so that what is there is not touched.
///
/// # Errors
/// Why it cannot be written.
pub fn writable_file(path: &Path) -> Result<(), String> {
    let (Some(name), false) = (path.file_name(), path.is_dir()) else {
        return Err("is a folder, a file is wanted".into());
    };
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| format!("cannot make its folder: {e}"))?;
    let mut probe = name.to_owned();
    probe.push(format!(".probe-{}", std::process::id()));
    try_file(dir.join(probe))?;
    if path.exists() {
        OpenOptions::new().append(true).open(path).map_err(|e| format!("cannot write: {e}"))?;
    }
    Ok(())
}

fn try_file(probe: PathBuf) -> Result<(), String> {
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    made.map_err(|e| format!("cannot write there: {e}"))?;
    let _ = fs::remove_file(&probe);
    Ok(())
}

/// The whole path, for messages.
pub fn shown(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}
