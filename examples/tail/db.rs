//! The database file: made if it is missing, compared with the model row by row before use, made anew if it differs.
//!
//! It is written under another name and renamed when it is complete. A file that this example did not make is never
//! touched: SQLite's application id, at a fixed place in the header, tells.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use crate::model::{self, CUSTOMERS, VERSION};
use crate::progress::Phase;

/// "unyt"
const APPLICATION: i32 = 0x756e_7974;

const SCHEMA: &str = "
    CREATE TABLE customer(id INTEGER PRIMARY KEY, region INTEGER NOT NULL, name TEXT NOT NULL);
    CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer(id),
        day INTEGER NOT NULL, quantity INTEGER NOT NULL, cents INTEGER NOT NULL, note TEXT NOT NULL);";

#[derive(Debug)]
pub(crate) enum Error {
    /// The file at this path is someone else's.
    NotOurs,
    Io(io::Error),
    Sql(rusqlite::Error),
    /// What was just written does not read back.
    Differs(String),
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Io(e)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Error {
        Error::Sql(e)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotOurs => f.write_str("there is a file that this example did not make; name another"),
            Error::Io(e) => e.fmt(f),
            Error::Sql(e) => e.fmt(f),
            Error::Differs(what) => write!(f, "what was written does not read back: {what}"),
        }
    }
}

/// Leaves a complete database of `rows` orders at `path`.
pub(crate) fn ensure(path: &Path, rows: u64) -> Result<(), Error> {
    remove_stale(path);
    if path.exists() {
        if !ours(path)? {
            return Err(Error::NotOurs);
        }
        match verify(path, rows) {
            Ok(()) => return Ok(()),
            Err(why) => eprintln!("{}: made anew, since {why}", path.display()),
        }
    }
    let partial = Partial(beside(path, &format!(".partial-{}", std::process::id())));
    make(&partial.0, rows)?;
    verify(&partial.0, rows).map_err(Error::Differs)?;
    // A log left by a database that was here before must not be replayed into the new one.
    remove_logs(path);
    fs::rename(&partial.0, path)?;
    Ok(())
}

/// A file under construction; its remains go when it is given up.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        remove_logs(&self.0);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn remove_logs(path: &Path) {
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(beside(path, suffix));
    }
}

/// Removes what runs that were killed left half made.
fn remove_stale(path: &Path) {
    let prefix = format!("{}.partial-", path.file_name().unwrap_or_default().to_string_lossy());
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(&prefix)) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !Path::new("/proc").join(&pid).exists() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// True for an empty file too, which SQLite takes for a new database.
fn ours(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(72).read_to_end(&mut head)?;
    Ok(head.is_empty()
        || (head.starts_with(b"SQLite format 3\0") && head.get(68..72) == Some(&APPLICATION.to_be_bytes())))
}

fn make(path: &Path, rows: u64) -> Result<(), Error> {
    let phase = Phase::new("making the database", rows, "{human_pos}/{human_len} rows, {eta} left");
    let mut db = Connection::open(path)?;
    // Nobody needs a half-made file, so no journal and no syncing until it is complete.
    db.execute_batch("PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    db.pragma_update(None, "application_id", APPLICATION)?;
    db.pragma_update(None, "user_version", VERSION)?;
    db.execute_batch(SCHEMA)?;
    let tx = db.transaction()?;
    {
        let mut insert = tx.prepare("INSERT INTO customer VALUES(?1, ?2, ?3)")?;
        for id in 1..=CUSTOMERS as i64 {
            insert.execute(params![id, model::region(id) as i64, model::name(id)])?;
        }
        let mut insert = tx.prepare("INSERT INTO orders VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?;
        for id in 1..=rows {
            let o = model::order(id);
            let note = str::from_utf8(&o.note).expect("letters");
            insert.execute(params![id, o.customer, o.day, o.quantity, o.cents, note])?;
            if id % 4096 == 0 {
                phase.at(id);
            }
        }
    }
    tx.commit()?;
    // Readers of a database in WAL mode share their locks in memory: a read in a process that reads already makes no
    // system call for them.
    db.execute_batch("ANALYZE; PRAGMA journal_mode = WAL;")?;
    db.close().map_err(|(_, e)| e)?;
    File::open(path)?.sync_all()?;
    phase.done();
    Ok(())
}

/// Reads every page and every row, which also brings the file into the page cache.
fn verify(path: &Path, rows: u64) -> Result<(), String> {
    let sql = |e: rusqlite::Error| e.to_string();
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
    let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, not {VERSION}"));
    }
    let count: u64 = db.query_row("SELECT count(*) FROM orders", [], |r| r.get(0)).map_err(sql)?;
    if count != rows {
        return Err(format!("it has {count} orders, not {rows}"));
    }
    let check: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(sql)?;
    if check != "ok" {
        return Err(format!("it is damaged: {}", check.lines().next().unwrap_or_default()));
    }
    let mut customers = db.prepare("SELECT id, region, name FROM customer ORDER BY id").map_err(sql)?;
    let mut found = customers.query([]).map_err(sql)?;
    for id in 1..=CUSTOMERS as i64 {
        let row = found.next().map_err(sql)?.ok_or("it lacks customers")?;
        if (row.get(0), row.get(1), row.get(2)) != (Ok(id), Ok(model::region(id) as i64), Ok(model::name(id)))
        {
            return Err(format!("customer {id} is not as it was written"));
        }
    }
    let phase = Phase::new("verifying the database", rows, "{human_pos}/{human_len} rows");
    let mut orders =
        db.prepare("SELECT id, customer, day, quantity, cents, note FROM orders ORDER BY id").map_err(sql)?;
    let mut found = orders.query([]).map_err(sql)?;
    for id in 1..=rows {
        let row = found.next().map_err(sql)?.ok_or("it lacks orders")?;
        if row.get(0) != Ok(id) || order_of(row, 1).map_err(sql)? != model::order(id) {
            return Err(format!("order {id} is not as it was written"));
        }
        if id % 4096 == 0 {
            phase.at(id);
        }
    }
    phase.done();
    Ok(())
}

/// The columns customer, day, quantity, cents, note from column `at` on. Copies nothing to the heap.
pub(crate) fn order_of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<model::Order> {
    let text = row.get_ref(at + 4)?.as_bytes()?;
    // A note of another length compares unequal to every order.
    let note = text.try_into().unwrap_or([0; model::NOTE]);
    Ok(model::Order {
        customer: row.get(at)?,
        day: row.get(at + 1)?,
        quantity: row.get(at + 2)?,
        cents: row.get(at + 3)?,
        note,
    })
}
