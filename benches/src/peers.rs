//! Child processes: where their programs are, how they are built, pinned, asked and stopped.
//!
//! The Go and Boost programs are compiled on first use into `target/peers` and started once per measurement. The Rust
//! workloads are servers: one process per row, asked over stdin, so that ours and the Rust peers share a process and stay
//! warm from round to round. Whoever does not answer within the time limit is killed; the next request starts anew.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    os,
    proto::Sample,
    rows::{Placement, Program, Row},
};

/// Samples, or why there are none.
pub type Answer = Result<Vec<Sample>, String>;

/// Where the workload programs are: paths that only the bench target knows.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Workloads with the system's allocator.
    pub system: PathBuf,
    /// With `Masked`.
    pub masked: PathBuf,
    /// With jemalloc, if built.
    pub jemalloc: Option<PathBuf>,
    /// With mimalloc, if built.
    pub mimalloc: Option<PathBuf>,
    /// `go/` and `cpp/`.
    pub sources: PathBuf,
    /// For compiled peers.
    pub peers: PathBuf,
    /// Everything that children print on stderr goes here.
    pub log: PathBuf,
}

/// Finds, builds and remembers programs.
#[derive(Debug)]
pub struct Programs {
    paths: Paths,
    built: HashMap<Program, Result<PathBuf, String>>,
}

impl Programs {
    /// None is built yet.
    pub fn new(paths: Paths) -> Self {
        Programs { paths, built: HashMap::new() }
    }

    /// The executable of `program`, compiled now if need be; or why there is none.
    pub fn get(&mut self, program: Program) -> Result<PathBuf, String> {
        if let Some(known) = self.built.get(&program) {
            return known.clone();
        }
        let feature = || "built without `--features allocators`".to_string();
        let found = match program {
            Program::System => Ok(self.paths.system.clone()),
            Program::Masked => Ok(self.paths.masked.clone()),
            Program::Jemalloc => self.paths.jemalloc.clone().ok_or_else(feature),
            Program::Mimalloc => self.paths.mimalloc.clone().ok_or_else(feature),
            Program::Go => self.go(),
            Program::Boost => self.boost(),
        };
        self.built.insert(program, found.clone());
        found
    }

    fn go(&self) -> Result<PathBuf, String> {
        let out = self.paths.peers.join("go-fibers");
        let mut c = Command::new("go");
        c.current_dir(self.paths.sources.join("go")).arg("build").arg("-o").arg(&out).arg(".");
        c.env("GOCACHE", self.paths.peers.join("go-cache")).env("GOFLAGS", "");
        compile(c, &self.paths.sources.join("go"), out, "go (Debian: golang-go)")
    }

    fn boost(&self) -> Result<PathBuf, String> {
        let out = self.paths.peers.join("boost-fibers");
        let dir = self.paths.sources.join("cpp");
        let mut c = Command::new("g++");
        c.args(["-O3", "-std=c++17", "-o"]).arg(&out).arg(dir.join("boost_fiber.cpp"));
        c.args(["-lboost_fiber", "-lboost_context", "-pthread"]);
        compile(c, &dir, out, "g++ with Boost.Fiber (Debian: g++ libboost-fiber-dev)")
    }

    fn log(&self) -> Log {
        let from = fs::metadata(&self.paths.log).map_or(0, |m| m.len());
        Log { path: self.paths.log.clone(), from }
    }
}

/// Runs compiler `c` unless `out` is newer than everything in `sources`.
fn compile(mut c: Command, sources: &Path, out: PathBuf, needs: &str) -> Result<PathBuf, String> {
    let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let newest =
        fs::read_dir(sources).into_iter().flatten().flatten().filter_map(|f| modified(&f.path())).max();
    if modified(&out) > newest {
        return Ok(out);
    }
    fs::create_dir_all(out.parent().unwrap_or(Path::new("."))).map_err(|e| e.to_string())?;
    match c.stdin(Stdio::null()).output() {
        Ok(o) if o.status.success() => Ok(out),
        Ok(o) => {
            let text = String::from_utf8_lossy(&o.stderr);
            let line = text.lines().find(|l| l.contains("error")).or(text.lines().next()).unwrap_or("");
            Err(format!("did not compile, needs {needs}: {line}"))
        }
        Err(e) => Err(format!("needs {needs}: {e}")),
    }
}

/// Where children write what they print on stderr, and how long the file was when a child started.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    fn stderr(&self) -> Stdio {
        let file = File::options().create(true).append(true).open(&self.path);
        file.map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// The first words of what the child had to say, for a line of the report.
    fn words(&self) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(self.from as usize..).unwrap_or_default()).into_owned();
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("note:"));
        let words = lines.take(3).collect::<Vec<_>>().join(" ");
        let short: String = words.chars().take(160).collect();
        if short.is_empty() { short } else { format!(": {short}") }
    }
}

/// The CPUs of a row: those its process may use, and one per worker among them.
#[derive(Clone, Debug)]
pub struct Cpus {
    /// For the process.
    pub process: Vec<usize>,
    /// For the workers.
    pub workers: Vec<usize>,
}

impl Cpus {
    /// The last `workers` of the machine's `all` CPUs. With fewer CPUs than workers they are shared in turn.
    pub fn choose(all: &[usize], workers: usize, placement: Placement) -> Cpus {
        let own: Vec<usize> = (0..workers).map(|i| all[all.len() - 1 - i % all.len()]).collect();
        let process = match placement {
            Placement::Tight => own.clone(),
            Placement::Loose => all.to_vec(),
        };
        Cpus { process, workers: own }
    }
}

/// The children of one row.
#[derive(Debug)]
pub struct Children<'a> {
    row: &'a Row,
    workers: usize,
    cpus: Cpus,
    limit: Duration,
    servers: HashMap<Program, Server>,
}

impl<'a> Children<'a> {
    /// No child is started yet. `limit` is per measurement.
    pub fn new(row: &'a Row, workers: usize, cpus: Cpus, limit: Duration) -> Self {
        Children { row, workers, cpus, limit, servers: HashMap::new() }
    }

    /// Measures one contender once, with size `n`.
    pub fn measure(&mut self, programs: &mut Programs, name: &str, program: Program, n: u64) -> Answer {
        let path = programs.get(program)?;
        if matches!(program, Program::Go | Program::Boost) {
            let mut c = self.command(&path);
            c.arg(n.to_string()).env("GOMAXPROCS", self.workers.to_string());
            return Server::start(c, programs.log())?.read(self.limit, true);
        }
        if self.row.fresh {
            self.servers.remove(&program);
        }
        if !self.servers.contains_key(&program) {
            let server = Server::start(self.command(&path), programs.log())?;
            self.servers.insert(program, server);
        }
        let server = self.servers.get_mut(&program).expect("inserted above");
        let answer = server.ask(name, n).and_then(|()| server.read(self.limit, false));
        if server.broken {
            self.servers.remove(&program);
        }
        answer
    }

    /// `path row workers cpu,cpu`, confined to the row's CPUs.
    fn command(&self, path: &Path) -> Command {
        let list: Vec<String> = self.cpus.workers.iter().map(usize::to_string).collect();
        let mut c = Command::new(path);
        c.arg(self.row.id).arg(self.workers.to_string()).arg(list.join(","));
        if self.row.id == "parked-mprotect" {
            c.env("UNYIELD_GUARD_MPROTECT", "1"); // as on a kernel without MADV_GUARD_INSTALL
        }
        let cpus = self.cpus.process.clone();
        // SAFETY: between fork and exec only `sched_setaffinity` is called, on memory allocated before the fork.
        unsafe { c.pre_exec(move || os::pin_self(&cpus)) };
        c
    }
}

/// A running child and a thread that reads its lines. Killed on drop.
#[derive(Debug)]
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Log,
    broken: bool,
}

impl Server {
    fn start(mut c: Command, log: Log) -> Result<Server, String> {
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.stderr());
        let mut child = c.spawn().map_err(|e| e.to_string())?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("piped above");
        let (to, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Server { child, stdin, lines, log, broken: false })
    }

    fn ask(&mut self, name: &str, n: u64) -> Result<(), String> {
        let stdin = self.stdin.as_mut().expect("servers keep it");
        // A child that died since its last answer shows as the end of its output: `read` reports how.
        let _ = writeln!(stdin, "{name} {n}").and_then(|()| stdin.flush());
        Ok(())
    }

    /// Reads up to `.` from a server, or to the end from a program that runs once.
    fn read(&mut self, limit: Duration, to_end: bool) -> Answer {
        let deadline = Instant::now() + limit;
        let (mut samples, mut refusal) = (Vec::new(), None);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == "." => break,
                Ok(line) => match (line.strip_prefix('!'), line.parse()) {
                    (Some(reason), _) => refusal = Some(reason.trim().to_string()),
                    (None, Ok(sample)) => samples.push(sample),
                    (None, Err(_)) => {}
                },
                Err(RecvTimeoutError::Timeout) => {
                    self.broken = true;
                    return Err(format!("no answer within {} s", limit.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.broken = true;
                    let status = self.child.wait().map_err(|e| e.to_string())?;
                    if to_end && status.success() {
                        break;
                    }
                    return Err(refusal.unwrap_or_else(|| describe(status) + &self.log.words()));
                }
            }
        }
        match refusal {
            Some(reason) => Err(reason),
            None if samples.is_empty() => Err("no figure".into()),
            None => Ok(samples),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(libc::SIGABRT), _) => "aborted".into(),
        (Some(libc::SIGSEGV), _) => "died of SIGSEGV".into(),
        (Some(signal), _) => format!("died of signal {signal}"),
        (None, code) => format!("ended early, exit code {}", code.unwrap_or(-1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Server {
        let mut c = Command::new("sh");
        c.arg("-c").arg(script);
        Server::start(c, Log { path: "/dev/null".into(), from: 0 }).unwrap()
    }

    #[test]
    fn figures_refusals_deaths_and_silence() {
        let second = Duration::from_secs(10);
        let ok = shell("echo go wall 5 ns").read(second, true);
        assert_eq!(ok, Ok(vec![Sample::new("go", "wall", 5.0, "ns")]));
        assert_eq!(shell("echo '! not here'; echo .").read(second, false), Err("not here".into()));
        assert_eq!(shell("kill -ABRT $$").read(second, true), Err("aborted".into()));
        assert_eq!(shell("exit 3").read(second, true), Err("ended early, exit code 3".into()));
        let mut silent = shell("sleep 100");
        assert_eq!(silent.read(Duration::from_millis(20), true), Err("no answer within 0 s".into()));
        assert!(silent.broken);
    }

    #[test]
    fn cpus_from_the_end() {
        let tight = Cpus::choose(&[0, 1, 2], 2, Placement::Tight);
        assert_eq!((tight.workers, tight.process), (vec![2, 1], vec![2, 1]));
        let loose = Cpus::choose(&[0, 1], 1, Placement::Loose);
        assert_eq!((loose.workers, loose.process), (vec![1], vec![0, 1]));
        assert_eq!(Cpus::choose(&[4], 3, Placement::Tight).workers, [4, 4, 4]);
    }
}
