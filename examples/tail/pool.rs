//! Read-only SQLite connections and the two kinds of query that run on them.
//!
//! A request takes a connection from a stack and puts it back. Who may take one is unyield's semaphore, which parks a fiber and blocks a thread. The stack
//! itself is touched inside a critical section: no fiber is ever preempted, or parked, while it holds the stack's lock, so nobody waits for it for long.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use unyield::critical;
use unyield::sync::Semaphore;

use rusqlite::{Connection, OpenFlags};

use crate::db::order_of;
use crate::model::{self, Analysis, Group};

/// An order with its customer: a look-up by primary key in each table.
const READ: &str = "
    SELECT o.customer, o.day, o.quantity, o.cents, o.note, c.region, c.name
    FROM orders AS o JOIN customer AS c ON c.id = o.customer WHERE o.id = ?1";
const ANALYSE: &str = "
    SELECT c.region, count(*), sum(o.quantity * o.cents), min(o.cents), max(o.cents), sum(o.day)
    FROM orders AS o JOIN customer AS c ON c.id = o.customer
    WHERE o.id BETWEEN ?1 AND ?2 GROUP BY c.region ORDER BY c.region";

#[derive(Debug)]
pub(crate) struct Pool {
    /// One permit for each free connection.
    permits: Semaphore,
    /// Last in, first out, so that few connections stay warm. Never grows: all are opened in advance.
    free: Mutex<Vec<Connection>>,
    /// How often a request found no connection.
    waits: AtomicU64,
    /// Holds a read transaction, so that the shared lock in memory is never the last one and no read pays for the
    /// file lock. It may write: as the last to close it removes the log files.
    keeper: Mutex<Connection>,
}

impl Pool {
    pub(crate) fn open(path: &Path, connections: usize) -> rusqlite::Result<Pool> {
        let keeper = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        keeper.execute_batch("BEGIN; SELECT count(*) FROM customer;")?;
        let free = (0..connections).map(|_| connect(path)).collect::<Result<_, _>>()?;
        Ok(Pool {
            permits: Semaphore::new(connections),
            free: Mutex::new(free),
            waits: AtomicU64::new(0),
            keeper: Mutex::new(keeper),
        })
    }

    pub(crate) fn take(&self) -> Taken<'_> {
        if !self.permits.try_acquire() {
            self.waits.fetch_add(1, Ordering::Relaxed);
            self.permits.acquire();
        }
        Taken { pool: self, connection: self.with_free(Vec::pop) }
    }

    /// How often a request found no connection, since the start.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    fn with_free<R>(&self, f: impl FnOnce(&mut Vec<Connection>) -> R) -> R {
        critical(|| f(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.free.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner).execute_batch("COMMIT");
    }
}

/// One user at a time, so SQLite's mutex of the connection is left out. The table is mapped; the sorter of GROUP BY
/// may use what the cache may, so it writes no temporary files. Both statements are prepared here, not in a request.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "mmap_size", i32::MAX - 65535)?;
    connection.pragma_update(None, "cache_size", -131_072)?; // KiB
    connection.prepare_cached(ANALYSE)?;
    connection.prepare_cached(READ)?.query_row([1], |_| Ok(()))?;
    Ok(connection)
}

/// A connection of the pool, until it drops.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Deref for Taken<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken until drop")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        self.pool.with_free(|free| free.extend(connection)); // within its first capacity
        self.pool.permits.release();
    }
}

/// A point read, compared with the model.
pub(crate) fn read(db: &Connection, id: u64) -> Result<(), String> {
    let mut right = false;
    let found = db.prepare_cached(READ).and_then(|mut read| {
        read.query_row([id], |row| {
            let order = order_of(row, 0)?;
            let region: usize = row.get(5)?;
            let name = row.get_ref(6)?.as_str()?;
            right = order == model::order(id)
                && region == model::region(order.customer)
                && model::is_name(order.customer, name);
            Ok((order, region))
        })
    });
    match found {
        Ok(_) if right => Ok(()),
        Ok((order, region)) => Err(format!("order {id}: got {order:?}, region {region}")),
        Err(e) => Err(format!("order {id}: {e}")),
    }
}

/// An aggregation over a range of orders, compared with the model.
pub(crate) fn analyse(db: &Connection, query: &Analysis) -> Result<(), String> {
    let wrong = |what: String| format!("analysis of {}..={}: {what}", query.first, query.last);
    let mut groups = 0;
    let mut run = || {
        let mut statement = db.prepare_cached(ANALYSE)?;
        let mut rows = statement.query([query.first, query.last])?;
        while let Some(row) = rows.next()? {
            let region: usize = row.get(0)?;
            let group = Group {
                orders: row.get(1)?,
                turnover: row.get(2)?,
                least: row.get(3)?,
                most: row.get(4)?,
                days: row.get(5)?,
            };
            if query.answer.get(region) != Some(&group) {
                return Ok(Some(format!("region {region}: got {group:?}")));
            }
            groups += 1;
        }
        Ok(None)
    };
    match run() {
        Ok(None) if groups == query.answer.len() => Ok(()),
        Ok(None) => Err(wrong(format!("{groups} groups"))),
        Ok(Some(what)) => Err(wrong(what)),
        Err::<_, rusqlite::Error>(e) => Err(wrong(e.to_string())),
    }
}
