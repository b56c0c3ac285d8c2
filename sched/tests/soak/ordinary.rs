//! Kinds that know nothing of fibers: the allocator, std and libc, as any program uses them.

use crate::kinds::{Cx, HUB, Planned, spin};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::panic::{catch_unwind, panic_any};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Collections of all sizes, from a few bytes to what the allocator maps.
pub fn malloc(cx: &mut Cx) {
    const N: u64 = 300;
    let mut map = HashMap::<String, Vec<u64>>::new();
    let mut tree = BTreeMap::new();
    let mut sum = 0u64;
    for i in 0..N {
        let x = cx.next();
        let key = format!("key {}", x % 97);
        map.entry(key.clone()).or_default().push(x);
        tree.insert(x, key);
        sum = sum.wrapping_add(x);
        if i % 16 == 0 {
            let block = vec![x as u8; (x % 70_000) as usize];
            check!(block.iter().all(|byte| *byte == x as u8), "a block of {} bytes", block.len());
        }
        if cx.number.is_multiple_of(32) && i == 7 {
            let large = vec![7u8; 300 << 10];
            check!(large[299 << 10] == 7, "a mapped block");
        }
    }
    check!(map.values().flatten().fold(0u64, |sum, x| sum.wrapping_add(*x)) == sum, "sum over the map");
    check!(tree.iter().all(|(x, key)| *key == format!("key {}", x % 97)), "keys of the tree");
}

thread_local! {
    static LIST: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LAZY: RefCell<HashMap<u64, u64>> = RefCell::new(HashMap::new());
}

/// Thread-local values that stay borrowed while we are preempted.
pub fn thread_locals(cx: &mut Cx) {
    let base = cx.next() >> 1;
    LIST.with_borrow_mut(|list| {
        list.clear();
        for k in 0..60 {
            list.push(base + k);
            COUNT.set(COUNT.get() + 1);
            LAZY.with_borrow_mut(|map| _ = map.insert(k, base ^ k));
            spin(2000, k);
        }
        check!(
            list.len() == 60 && list.iter().zip(base..).all(|(x, want)| *x == want),
            "a list in a thread-local"
        );
    });
    check!(COUNT.replace(0) == 60, "a counter in a thread-local");
    LAZY.with_borrow_mut(|map| check!(map.drain().all(|(k, x)| x == base ^ k), "a map in a thread-local"));
}

/// std's channels, a mutex that everybody wants, and a condition variable.
pub fn mpsc_and_condvar(cx: &mut Cx) {
    let (base, timed) = (cx.next() >> 8, cx.below(2) == 0);
    let (there, requests) = mpsc::channel::<u64>();
    let (back, answers) = mpsc::sync_channel::<u64>(1);
    let server = unyield::spawn(move || {
        for request in requests {
            let n = request & 0xff;
            *HUB.std_mutex.lock().unwrap() += n;
            HUB.in_std_mutex.fetch_add(n, Relaxed);
            if back.send(request * 2).is_err() {
                break;
            }
        }
    });
    for k in 0..20 {
        there.send(base + k).unwrap();
        let answer = answers.recv();
        check!(answer == Ok((base + k) * 2), "answer {answer:?} over mpsc");
    }
    drop(there);
    let pair = Arc::new((Mutex::new(0u64), Condvar::new()));
    let other = pair.clone();
    let counter = unyield::spawn(move || {
        for _ in 0..5 {
            *other.0.lock().unwrap() += 1;
            spin(500, 3);
            other.1.notify_one();
        }
    });
    let mut count = pair.0.lock().unwrap();
    while *count < 5 {
        count = if timed {
            let (count, result) = pair.1.wait_timeout(count, Duration::from_secs(50)).unwrap();
            check!(!result.timed_out(), "a notification was lost");
            count
        } else {
            pair.1.wait(count).unwrap()
        };
    }
    drop(count);
    check!(server.join().is_ok() && counter.join().is_ok(), "helpers");
}

/// Caught panics, with payloads and destructors; the count of panics is a thread-local of std.
pub fn panics(cx: &mut Cx) {
    struct Dropped<'a>(&'a Cell<u32>);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + u32::from(std::thread::panicking()));
        }
    }
    let number = cx.number;
    for k in 0..3 {
        let dropped = Cell::new(0);
        let dropped_ref = std::panic::AssertUnwindSafe(&dropped);
        let caught = catch_unwind(move || {
            let _guard = Dropped(&dropped_ref);
            let _vec = std::hint::black_box(vec![number; 10]);
            if spin(100, number) != 0 {
                panic_any(Planned(number + k));
            }
        });
        let payload = caught.unwrap_err().downcast::<Planned>();
        check!(payload.is_ok_and(|payload| *payload == Planned(number + k)), "payload of a panic");
        check!(!std::thread::panicking() && dropped.get() == 1, "panicking after a panic");
    }
}

/// std's idea of the current thread does not change, and its park and unpark find the fiber.
pub fn thread_ids(_: &mut Cx) {
    let before = std::thread::current().id();
    spin(20_000, 5);
    check!(before == std::thread::current().id(), "thread id");
    let (me, set) = (std::thread::current(), Arc::new(AtomicBool::new(false)));
    let flag = set.clone();
    let other = unyield::spawn(move || {
        spin(5000, 9);
        flag.store(true, Release);
        me.unpark();
    });
    while !set.load(Acquire) {
        std::thread::park();
    }
    check!(other.join().is_ok(), "the fiber that unparks");
}

/// A generator that lives in a thread-local, checked by its distribution.
pub fn rng(_: &mut Cx) {
    use rand::Rng;
    let mut rng = rand::rng();
    let ones: u32 = (0..2000).map(|_| rng.random::<u64>().count_ones()).sum();
    check!((60_000..68_000).contains(&ones), "{ones} of 128,000 random bits are set");
}

pub fn files(cx: &mut Cx) {
    let path = std::env::temp_dir().join(format!("unyield-soak-{}-{}", std::process::id(), cx.next()));
    let data: Vec<u8> = (0..3000).map(|_| cx.next() as u8).collect();
    {
        let mut file = std::fs::File::create(&path).unwrap();
        for part in data.chunks(700) {
            file.write_all(part).unwrap();
        }
    }
    let mut read = Vec::new();
    std::fs::File::open(&path).unwrap().read_to_end(&mut read).unwrap();
    check!(read == data, "contents of a file");
    std::fs::remove_file(&path).unwrap();
    if cx.below(4) == 0 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        check!(stat.starts_with(&format!("{} (soak", std::process::id())), "/proc/self/stat");
    }
}

pub fn backtrace(cx: &mut Cx) {
    let trace = std::backtrace::Backtrace::force_capture();
    // Resolving names is slow, and slower without optimisation.
    if cx.below(if cfg!(debug_assertions) { 400 } else { 40 }) == 0 {
        check!(trace.to_string().contains("ordinary::backtrace"), "names of a backtrace");
    }
}

extern "C" fn compare(a: *const libc::c_void, b: *const libc::c_void) -> i32 {
    // SAFETY: qsort passes elements of the array.
    unsafe { (*a.cast::<u32>()).cmp(&*b.cast::<u32>()) as i32 }
}

unsafe extern "C" {
    fn strtok_r(
        s: *mut libc::c_char,
        delimiters: *const libc::c_char,
        state: *mut *mut libc::c_char,
    ) -> *mut libc::c_char;
}

/// errno, strtok, time, qsort, stdio formatting, strerror's buffer, locales, recursive robust mutexes.
pub fn libc_calls(cx: &mut Cx) {
    let number = cx.below(1 << 30);
    // SAFETY: each call gets buffers of its own, of the sizes that it is told.
    unsafe {
        for _ in 0..3 {
            libc::open(c"/nonexistent/x".as_ptr(), 0);
            spin(3000, number);
            let errno = *libc::__errno_location();
            check!(errno == libc::ENOENT, "errno {errno}");
        }
        let (mut text, mut state, mut words) = (*b"alpha,beta,gamma,delta\0", null_mut(), 0);
        let mut word = strtok_r(text.as_mut_ptr().cast(), c",".as_ptr(), &mut state);
        while !word.is_null() {
            words += 1;
            spin(300, 3);
            word = strtok_r(null_mut(), c",".as_ptr(), &mut state);
        }
        check!(words == 4, "{words} words by strtok_r");
        let (time, mut parts) = (1_700_000_000 + number as i64, std::mem::zeroed());
        libc::localtime_r(&time, &mut parts);
        check!(libc::mktime(&mut parts) == time, "localtime_r and mktime");
        let mut numbers: Vec<u32> = (0..3000).map(|_| cx.next() as u32).collect();
        let mut sorted = numbers.clone();
        libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 4, Some(compare));
        sorted.sort();
        check!(numbers == sorted, "qsort");
        let (mut line, decimal) = ([0 as libc::c_char; 200], number as f64 * 1.25);
        libc::snprintf(line.as_mut_ptr(), line.len(), c"%.2f %ld".as_ptr(), decimal, number);
        let line = std::ffi::CStr::from_ptr(line.as_ptr()).to_str().unwrap();
        check!(line == format!("{decimal:.2} {number}"), "snprintf: {line}");
        let error = 9999 + (number % 1000) as i32;
        let message = libc::strerror(error); // a buffer in thread-local storage
        spin(1000, 2);
        let message = std::ffi::CStr::from_ptr(message).to_str().unwrap();
        check!(message == format!("Unknown error {error}"), "strerror: {message}");
        let locale = libc::newlocale(libc::LC_ALL_MASK, c"C".as_ptr(), null_mut());
        if !locale.is_null() {
            let before = libc::uselocale(locale);
            spin(5000, number);
            check!(libc::uselocale(null_mut()) == locale, "uselocale");
            libc::uselocale(before);
            libc::freelocale(locale);
        }
        let (mut attributes, mut mutex): (libc::pthread_mutexattr_t, libc::pthread_mutex_t) =
            std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_settype(&mut attributes, libc::PTHREAD_MUTEX_RECURSIVE);
        libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutex_init(&mut mutex, &attributes);
        for _ in 0..3 {
            check!(libc::pthread_mutex_lock(&mut mutex) == 0, "locking a recursive robust mutex");
            spin(300, 2);
        }
        for _ in 0..3 {
            check!(libc::pthread_mutex_unlock(&mut mutex) == 0, "unlocking a recursive robust mutex");
        }
        check!(libc::pthread_mutex_unlock(&mut mutex) == libc::EPERM, "unlocking once too often");
        libc::pthread_mutex_destroy(&mut mutex);
    }
}

/// Timed waits of std are as long as they should be.
pub fn sleeps(_: &mut Cx) {
    let (start, time) = (Instant::now(), Duration::from_micros(1500));
    std::thread::sleep(time);
    check!(start.elapsed() >= time, "std's sleep took {:?}", start.elapsed());
    let (_sender, receiver) = mpsc::channel::<()>();
    let (start, time) = (Instant::now(), Duration::from_millis(2));
    check!(
        receiver.recv_timeout(time).is_err() && start.elapsed() >= time,
        "recv_timeout took {:?}",
        start.elapsed()
    );
}

/// A plain thread, started and joined from a fiber, has the signal mask that the program's threads have.
pub fn native_threads(cx: &mut Cx) {
    let number = cx.number;
    let (length, mask) = std::thread::spawn(move || {
        let text: String = (0..100u8).map(|x| char::from(b'a' + x % 26)).collect();
        // SAFETY: reads the calling thread's mask into a local.
        let mask = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
            libc::sigismember(&set, libc::SIGUSR1)
        };
        (text.len() as u64 + number, mask)
    })
    .join()
    .unwrap();
    check!(length == 100 + number, "result of a thread");
    check!(mask == 0, "a thread started by a fiber has signals blocked");
}
