//! Where the binaries of this build lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The path of one of the workspace's binaries, of the same profile as the running test.
///
/// It is looked for in `POSTROAD_BIN_DIR` where that is set, else beside the running executable and one folder
/// above (tests lie in `target/<profile>/deps`). Cargo does not build other packages' binaries for a test, so an
/// old one may lie there, or none: the error says what to run.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTROAD_BIN_DIR") {
        let folder = PathBuf::from(folder);
        return find(name, &[&folder], "which POSTROAD_BIN_DIR names");
    }
    let executable = std::env::current_exe().context("cannot tell where this executable lies")?;
    let folders: Vec<&Path> = executable.ancestors().skip(1).take(2).collect();
    find(name, &folders, &advice(folders.last().copied()))
}

fn find(name: &str, folders: &[&Path], advice: &str) -> Result<PathBuf> {
    let candidates = folders.iter().map(|folder| folder.join(name));
    if let Some(found) = candidates.clone().find(|file| file.is_file()) {
        return Ok(found);
    }
    let tried: Vec<String> = candidates.map(|file| file.display().to_string()).collect();
    bail!("there is no binary {name} at {}: {advice}", tried.join(" nor "))
}

fn advice(profile_folder: Option<&Path>) -> String {
    let profile = match profile_folder.and_then(Path::file_name).and_then(|name| name.to_str()) {
        None | Some("debug") => String::new(),
        Some("release") => " --release".to_owned(),
        Some(other) => format!(" --profile {other}"),
    };
    format!("run `cargo build --workspace --bins{profile}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_lies_beside_or_above() {
        let target = tempfile::tempdir().unwrap();
        let deps = target.path().join("deps");
        std::fs::create_dir(&deps).unwrap();
        std::fs::write(target.path().join("postroad-x"), "").unwrap();
        let folders = [deps.as_path(), target.path()];
        assert_eq!(find("postroad-x", &folders, "").unwrap(), target.path().join("postroad-x"));
    }

    #[test]
    fn a_missing_one_says_what_to_run() {
        let error = binary("postroad-nothing").unwrap_err().to_string();
        assert!(error.starts_with("there is no binary postroad-nothing at /"), "{error}");
        assert!(error.contains("cargo build --workspace --bins"), "{error}");
        assert!(advice(Some(Path::new("/t/release"))).ends_with("--bins --release`"));
        assert!(advice(Some(Path::new("/t/fast"))).ends_with("--bins --profile fast`"));
    }
}
