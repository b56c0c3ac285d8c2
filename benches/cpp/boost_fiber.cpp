// The workloads on Boost.Fiber: boost-fibers ROW WORKERS CPUS N prints `boost metric value unit`.
//
// One thread, the default round-robin scheduler, pooled stacks of 16 KiB. Each figure is taken in the main fiber after a
// tenth of the work to warm up. What each row measures is said in the file of the same name under src/work.
#include <boost/fiber/all.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <time.h>
#include <vector>

namespace bf = boost::fibers;
using Clock = std::chrono::steady_clock;

static double cpu() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static double ns_since(Clock::time_point t) {
    return std::chrono::duration<double, std::nano>(Clock::now() - t).count();
}

static void say(const char *metric, double value, const char *unit) { printf("boost %s %.17g %s\n", metric, value, unit); }

static void check(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

// Runs f with a tenth of n, then with n; f returns the number of operations.
template <class F> static void per_op(long n, F f) {
    f(n / 10);
    double c = cpu();
    auto t = Clock::now();
    double ops = f(n);
    double wall = ns_since(t);
    say("wall", wall / ops, "ns");
    say("cpu", (cpu() - c) / ops, "ns");
}

static bf::pooled_fixedsize_stack stacks(16384);

template <class F> static bf::fiber spawn(F f) { return bf::fiber(std::allocator_arg, stacks, f); }

static long yields(long n) {
    auto run = [n] {
        for (long i = 0; i < n; i++) boost::this_fiber::yield();
    };
    auto a = spawn(run), b = spawn(run);
    a.join();
    b.join();
    return 2 * n;
}

static long spawns(long n, long batch) {
    long ran = 0, spawned = 0;
    std::vector<bf::fiber> fibers;
    fibers.reserve(batch);
    for (; spawned < n; spawned += batch) {
        for (long i = 0; i < batch; i++) fibers.push_back(spawn([&ran] { ran++; }));
        for (auto &f : fibers) f.join();
        fibers.clear();
    }
    check(ran == spawned, "tasks");
    return spawned;
}

static long round_trips(long n) {
    bf::unbuffered_channel<long> there, back;
    auto echo = spawn([&] {
        long v = 0;
        for (long i = 0; i < n; i++) {
            there.pop(v);
            back.push(v + 1);
        }
    });
    long v = 0;
    for (long i = 0; i < n; i++) {
        there.push(v);
        back.pop(v);
    }
    echo.join();
    check(v == n, "round trips");
    return n;
}

static long locks(long n) {
    bf::mutex m;
    long counter = 0;
    auto run = [&] {
        for (long i = 0; i < n; i++) {
            std::unique_lock<bf::mutex> held(m);
            counter++;
            boost::this_fiber::yield();
        }
    };
    auto a = spawn(run), b = spawn(run);
    a.join();
    b.join();
    check(counter == 2 * n, "locks");
    return 2 * n;
}

struct Memory {
    double rss = 0, tables = 0, mappings = 0;
    Memory() {
        std::ifstream status("/proc/self/status");
        for (std::string key; status >> key; status.ignore(1000, '\n')) {
            if (key == "VmRSS:") status >> rss;
            if (key == "VmPTE:") status >> tables;
        }
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) mappings++;
    }
};

static void parked(long n) {
    Memory before;
    auto t = Clock::now();
    bf::mutex m;
    bf::condition_variable gate;
    bool open = false;
    long up = 0;
    std::vector<bf::fiber> fibers;
    fibers.reserve(n);
    bf::fixedsize_stack unpooled(16384); // the pool allocates in ever larger chunks
    for (long i = 0; i < n; i++)
        fibers.push_back(bf::fiber(std::allocator_arg, unpooled, [&] {
            std::unique_lock<bf::mutex> held(m);
            up++;
            gate.wait(held, [&] { return open; });
        }));
    while (up < n) boost::this_fiber::yield();
    double create = ns_since(t);
    Memory now;
    say("total", (now.rss - before.rss + now.tables - before.tables) * 1024 / n, "B");
    say("rss", (now.rss - before.rss) * 1024 / n, "B");
    say("mappings", (now.mappings - before.mappings) / n, "each");
    say("create", create / 1e6, "ms");
    t = Clock::now();
    open = true;
    gate.notify_all();
    for (auto &f : fibers) f.join();
    say("finish", ns_since(t) / 1e6, "ms");
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: boost-fibers ROW WORKERS CPUS N\n");
        return 2;
    }
    std::string row = argv[1];
    long n = atol(argv[4]);
    if (row == "yield") per_op(n, yields);
    else if (row == "spawn-batch") per_op(n, [](long n) { return spawns(n, 1000); });
    else if (row == "spawn-one") per_op(n, [](long n) { return spawns(n, 1); });
    else if (row == "channel") per_op(n, round_trips);
    else if (row == "mutex") per_op(n, locks);
    else if (row == "parked") parked(n);
    else puts("! no such row for Boost.Fiber");
}
