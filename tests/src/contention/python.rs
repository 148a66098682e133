//! A Python with Google's clients in it, to run the unguarded worker.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use unguarded::{PYTHON_REQUIREMENTS, PYTHON_WORKER};

/// A Python that has these requirements installed; nothing is then installed.
const GIVEN: &str = "FLEET_UNGUARDED_PYTHON";
/// What the pinned requirements need.
const VERSION: &str = "import sys; sys.exit(sys.version_info < (3, 10))";

/// Why the Python way is left out.
#[derive(Debug)]
pub struct NoPython(String);

impl fmt::Display for NoPython {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoPython {}

/// A virtual environment and the worker in it.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
    script: PathBuf,
}

impl Python {
    /// Makes the environment in the target folder, from the Python package index, unless
    /// it is there already.
    ///
    /// # Errors
    /// [`NoPython`] says what is missing.
    pub async fn find() -> Result<Self, NoPython> {
        let folder = target_folder()?.join("unguarded-python");
        let failed = |what: &str, error: std::io::Error| {
            NoPython(format!("{} cannot be {what}: {error}", folder.display()))
        };
        std::fs::create_dir_all(&folder).map_err(|e| failed("made", e))?;
        let (script, list) = (folder.join("worker.py"), folder.join("requirements.txt"));
        std::fs::write(&script, PYTHON_WORKER).map_err(|e| failed("written to", e))?;
        if let Some(given) = std::env::var_os(GIVEN).filter(|value| !value.is_empty()) {
            return Ok(Self { interpreter: given.into(), script });
        }
        let interpreter = folder.join("venv/bin/python");
        let installed = std::fs::read_to_string(&list).is_ok_and(|was| was == PYTHON_REQUIREMENTS);
        if !(installed && interpreter.exists()) {
            let wanted = folder.join("wanted.txt");
            std::fs::write(&wanted, PYTHON_REQUIREMENTS).map_err(|e| failed("written to", e))?;
            install(&folder.join("venv"), &wanted).await?;
            // Renamed last, so that a broken installation is not taken for a whole one.
            std::fs::rename(&wanted, &list).map_err(|e| failed("written to", e))?;
        }
        Ok(Self { interpreter, script })
    }

    /// The interpreter that has the clients.
    pub fn interpreter(&self) -> &Path {
        &self.interpreter
    }

    /// The worker with so many processes, each of so many threads. Its variables are to be
    /// added. It ends when its standard input does, or when the child is dropped.
    pub fn worker(&self, processes: usize, threads: usize) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .arg(&self.script)
            .args(["--processes", &processes.to_string(), "--threads", &threads.to_string()])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

async fn install(venv: &Path, requirements: &Path) -> Result<(), NoPython> {
    let old = "no Python 3.10 or newer is in the PATH (as python3)";
    run(Command::new("python3").args(["-c", VERSION])).await.map_err(|_| NoPython(old.into()))?;
    let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv)).await;
    made.map_err(|said| NoPython(format!("Python makes no virtual environment: {said}")))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--require-hashes", "--requirement"]).arg(requirements);
    let installed = run(&mut pip).await;
    installed.map_err(|said| NoPython(format!("pip cannot install Google's clients: {said}")))
}

/// Runs it to its end; else the last line that it said.
async fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().last().unwrap_or("it said nothing").to_owned())
}

/// Cargo's, of this very program.
fn target_folder() -> Result<PathBuf, NoPython> {
    let program = std::env::current_exe().map_err(|e| NoPython(e.to_string()))?;
    let folder = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    folder.map(Path::to_owned).ok_or_else(|| NoPython("this program has no target folder".into()))
}
