//! Builds the pages with npm and esbuild into `OUT_DIR`, where `src/lib.rs` takes them from.
//!
//! `TICKMESH_WEB` says how: nothing, build them where npm is there, and otherwise a page that says what is missing;
//! `required`, fail without them; `off`, do not try; a path, take them from that directory, where `node build.mjs` put them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

/// What `build.mjs` makes.
const FILES: [&str; 6] =
    ["index.html", "app.js", "app.css", "dashboard.html", "dashboard.js", "dashboard.css"];
/// What they are made of.
const SOURCES: [&str; 5] = ["package.json", "package-lock.json", ".npmrc", "build.mjs", "ui"];
/// Longest run of npm where the build goes on without it.
const PATIENCE: Duration = Duration::from_secs(120);
/// And where it does not.
const PATIENCE_REQUIRED: Duration = Duration::from_secs(900);

fn main() {
    println!("cargo:rerun-if-env-changed=TICKMESH_WEB");
    println!("cargo:rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let pages = out.join("pages");
    let how = env::var("TICKMESH_WEB").unwrap_or_default();
    let made = match how.as_str() {
        "" => build(&out, &pages, PATIENCE),
        "required" => build(&out, &pages, PATIENCE_REQUIRED),
        "off" => Err("they were left out: TICKMESH_WEB=off".to_owned()),
        path => copy(Path::new(path), &pages),
    };
    match made {
        Ok(()) => {}
        Err(why) if how.is_empty() || how == "off" => {
            println!("cargo:warning=the web pages are not built: {why}");
            stand_in(&pages, &why).expect("OUT_DIR can be written");
        }
        Err(why) => panic!("the web pages cannot be built: {why}"),
    }
}

/// Builds in a copy, so that nothing is written beside the sources.
fn build(out: &Path, pages: &Path, patience: Duration) -> Result<(), String> {
    let workshop = out.join("workshop");
    let written = |error: io::Error| format!("cannot write into {}: {error}", workshop.display());
    fs::create_dir_all(&workshop).map_err(written)?;
    let lock = "package-lock.json";
    // What is installed stays as long as the lock file does.
    let same = workshop.join("node_modules/.package-lock.json").exists()
        && fs::read(lock).ok().is_some_and(|now| fs::read(workshop.join(lock)).is_ok_and(|then| now == then));
    if !same {
        let _ = fs::remove_file(workshop.join(lock));
    }
    let _ = fs::remove_dir_all(workshop.join("ui"));
    for source in SOURCES.into_iter().filter(|source| *source != lock) {
        copy_tree(Path::new(source), &workshop.join(source)).map_err(written)?;
    }
    let end = Instant::now() + patience;
    if !same {
        // Without scripts: nothing of them is needed, and what runs is what is in the lock file.
        let install =
            ["ci", "--omit=dev", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1", "--silent"];
        fs::copy(lock, workshop.join("package-lock.json")).map_err(written)?;
        if let Err(why) = run("npm", &install, &workshop, end) {
            let _ = fs::remove_file(workshop.join(lock));
            return Err(why);
        }
    }
    let _ = fs::remove_dir_all(pages);
    run("node", &["build.mjs".as_ref(), pages.as_os_str()], &workshop, end)?;
    complete(pages)
}

fn copy(from: &Path, pages: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed={}", from.display());
    complete(from).map_err(|why| format!("TICKMESH_WEB={}: {why}", from.display()))?;
    let _ = fs::remove_dir_all(pages);
    copy_tree(from, pages).map_err(|error| error.to_string())
}

fn complete(pages: &Path) -> Result<(), String> {
    match FILES.iter().find(|file| !pages.join(file).is_file()) {
        None => Ok(()),
        Some(file) => Err(format!("there is no {file} in {}", pages.display())),
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(|_| ());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Runs a program to its end, but no longer than until then.
fn run(
    program: &str,
    arguments: &[impl AsRef<std::ffi::OsStr>],
    directory: &Path,
    end: Instant,
) -> Result<(), String> {
    let log = directory.join("log");
    let output = fs::File::create(&log).map_err(|error| error.to_string())?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not installed"),
            _ => format!("{program} cannot be started: {error}"),
        })?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let said: Vec<_> =
                    said.lines().map(str::trim).filter(|line| !line.is_empty()).take(6).collect();
                return Err(format!("{program} failed ({status}): {}", said.join("; ")));
            }
            Ok(None) if Instant::now() < end => thread::park_timeout(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} did not end in time"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Pages that say what is missing.
fn stand_in(pages: &Path, why: &str) -> io::Result<()> {
    let _ = fs::remove_dir_all(pages);
    fs::create_dir_all(pages)?;
    for file in FILES {
        fs::write(pages.join(file), "")?;
    }
    let why = why.replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>tickmesh</title>\n\
         <h1>tickmesh runs, but its pages are not in this binary</h1>\n<p>When it was built, {why}.</p>\n\
         <p>Install Node.js 18 or newer with npm (Debian: <code>apt-get install nodejs npm</code>), then\n\
         <code>cargo clean --package tickmesh-web</code> and build again. Everything else is here: the API under\n\
         <code>/api/v1</code>, <code>/ws</code> and <code>/metrics</code>.</p>\n</html>\n"
    );
    fs::write(pages.join("index.html"), &page)?;
    fs::write(pages.join("dashboard.html"), &page)?;
    // That is how `src/lib.rs` knows.
    fs::write(pages.join("app.js"), "")
}
