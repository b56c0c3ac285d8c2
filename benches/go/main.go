// The workloads in Go: fibers ROW WORKERS CPUS N prints `go metric value unit`.
//
// The driver sets GOMAXPROCS and confines the process to the row's CPUs; threads of the Go runtime cannot be pinned one
// by one. Each figure is taken inside a goroutine, after a tenth of the work to warm up. What each row measures is said
// in the file of the same name under src/work.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// CPU time of the process, ns.
func cpu() float64 {
	var t syscall.Timespec
	const clockProcessCPU = 2
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockProcessCPU, uintptr(unsafe.Pointer(&t)), 0)
	return float64(t.Sec)*1e9 + float64(t.Nsec)
}

func say(metric string, value float64, unit string) {
	fmt.Printf("go %s %v %s\n", metric, value, unit)
}

// Runs f with a tenth of n, then with n; f returns the number of operations.
func perOp(n int, f func(n int) int) {
	f(n / 10)
	c, t := cpu(), time.Now()
	ops := float64(f(n))
	wall := float64(time.Since(t))
	say("wall", wall/ops, "ns")
	say("cpu", (cpu()-c)/ops, "ns")
}

func check(ok bool, what string) {
	if !ok {
		panic("wrong: " + what)
	}
}

func yields(n int) int {
	var wg sync.WaitGroup
	wg.Add(2)
	for k := 0; k < 2; k++ {
		go func() {
			for i := 0; i < n; i++ {
				runtime.Gosched()
			}
			wg.Done()
		}()
	}
	wg.Wait()
	return 2 * n
}

func spawns(batch int) func(int) int {
	return func(n int) int {
		var ran int64
		spawned := 0
		for spawned < n {
			var wg sync.WaitGroup
			wg.Add(batch)
			for i := 0; i < batch; i++ {
				go func() { atomic.AddInt64(&ran, 1); wg.Done() }()
			}
			wg.Wait()
			spawned += batch
		}
		check(ran == int64(spawned), "tasks")
		return spawned
	}
}

func roundTrips(n int) int {
	there, back := make(chan int), make(chan int)
	go func() {
		for i := 0; i < n; i++ {
			back <- (<-there) + 1
		}
	}()
	v := 0
	for i := 0; i < n; i++ {
		there <- v
		v = <-back
	}
	check(v == n, "round trips")
	return n
}

func locks(n int) int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	counter := 0
	wg.Add(2)
	for k := 0; k < 2; k++ {
		go func() {
			for i := 0; i < n; i++ {
				mu.Lock()
				counter++
				runtime.Gosched()
				mu.Unlock()
			}
			wg.Done()
		}()
	}
	wg.Wait()
	check(counter == 2*n, "locks")
	return 2 * n
}

func node(up chan int, first, leaves int) {
	if leaves == 1 {
		up <- first
		return
	}
	from := make(chan int)
	for i := 0; i < 10; i++ {
		go node(from, first+i*(leaves/10), leaves/10)
	}
	sum := 0
	for i := 0; i < 10; i++ {
		sum += <-from
	}
	up <- sum
}

func skynet(n int) int {
	up := make(chan int)
	go node(up, 0, n)
	check(<-up == n*(n-1)/2, "sum of leaves")
	return n
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: fibers ROW WORKERS CPUS N")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, "N:", err)
		os.Exit(2)
	}
	switch os.Args[1] {
	case "yield":
		perOp(n, yields)
	case "spawn-batch":
		perOp(n, spawns(1000))
	case "spawn-one":
		perOp(n, spawns(1))
	case "channel":
		perOp(n, roundTrips)
	case "mutex":
		perOp(n, locks)
	case "skynet":
		perOp(n, skynet)
	case "starve":
		starve(n)
	case "parked":
		parked(n)
	case "blocking":
		blocking(n)
	default:
		fmt.Println("! no such row in Go")
	}
}
