// The rows that are not about the cost of an operation: starve, parked, blocking.
package main

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var sink uint64

//go:noinline
func spin(n int) uint64 {
	x := uint64(88172645463325252)
	for i := 0; i < n; i++ {
		x = x*6364136223846793005 + 1
	}
	return x
}

func starve(n int) {
	var stop, looping, done int64
	go func() {
		atomic.StoreInt64(&looping, 1)
		for atomic.LoadInt64(&stop) == 0 {
			sink += spin(10)
		}
	}()
	for atomic.LoadInt64(&looping) == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	ends := make([]time.Duration, n)
	start := time.Now()
	for i := 0; i < n; i++ {
		i := i
		go func() {
			atomic.AddUint64(&sink, spin(2000))
			ends[i] = time.Since(start)
			atomic.AddInt64(&done, 1)
		}()
	}
	for atomic.LoadInt64(&done) < int64(n) {
		time.Sleep(time.Millisecond)
	}
	first, last := ends[0], ends[0]
	for _, t := range ends {
		if t < first {
			first = t
		}
		if t > last {
			last = t
		}
	}
	say("first", float64(first)/1e6, "ms")
	say("last", float64(last)/1e6, "ms")
	os.Exit(0)
}

// VmRSS and VmPTE in bytes, and the number of mappings.
func memory() (rss, tables, mappings float64) {
	text, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			rss = kib * 1024
		case "VmPTE:":
			tables = kib * 1024
		}
	}
	if maps, err := os.Open("/proc/self/maps"); err == nil {
		for s := bufio.NewScanner(maps); s.Scan(); {
			mappings++
		}
		maps.Close()
	}
	return
}

func parked(n int) {
	debug.SetGCPercent(-1)
	rss0, tables0, mappings0 := memory()
	var up int64
	gate := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(n)
	start := time.Now()
	for i := 0; i < n; i++ {
		go func() {
			atomic.AddInt64(&up, 1)
			<-gate
			wg.Done()
		}()
	}
	for atomic.LoadInt64(&up) < int64(n) {
		time.Sleep(time.Millisecond)
	}
	create := time.Since(start)
	time.Sleep(100 * time.Millisecond)
	rss, tables, mappings := memory()
	say("total", (rss-rss0+tables-tables0)/float64(n), "B")
	say("rss", (rss-rss0)/float64(n), "B")
	say("mappings", (mappings-mappings0)/float64(n), "each")
	say("create", float64(create)/1e6, "ms")
	start = time.Now()
	close(gate)
	wg.Wait()
	say("finish", float64(time.Since(start))/1e6, "ms")
}

// For how long the calling thread has waited for a CPU, ns.
func runDelay() float64 {
	text, _ := os.ReadFile("/proc/thread-self/schedstat")
	if f := strings.Fields(string(text)); len(f) > 1 {
		ns, _ := strconv.ParseFloat(f[1], 64)
		return ns
	}
	return 0
}

func blocking(n int) {
	const readers = 50
	best := 0
	for i := 0; i < 300; i++ {
		t := time.Now()
		sink += spin(50000)
		if per := int(50000 * 1e6 / float64(time.Since(t))); per > best {
			best = per
		}
	}
	steps := best * n
	compute := func() float64 {
		done := make(chan float64)
		t := time.Now()
		go func() {
			thread, delay := syscall.Gettid(), runDelay()
			atomic.AddUint64(&sink, spin(steps))
			ns := float64(time.Since(t))
			if syscall.Gettid() == thread {
				ns -= runDelay() - delay
			}
			done <- ns
		}()
		return <-done
	}
	compute()
	alone := compute()
	var wg sync.WaitGroup
	wg.Add(readers)
	var eintr int64
	var ends [readers][2]int
	for i := range ends {
		check(syscall.Pipe(ends[i][:]) == nil, "pipe")
		go func(from int) {
			var byte [1]byte
			for {
				r, err := syscall.Read(from, byte[:])
				if r == 1 {
					break
				}
				check(err == syscall.EINTR, "read")
				atomic.AddInt64(&eintr, 1)
			}
			wg.Done()
		}(ends[i][0])
	}
	early := compute()
	time.Sleep(200 * time.Millisecond)
	beside := compute()
	c := cpu()
	time.Sleep(2 * time.Duration(n) * time.Millisecond)
	idle := (cpu() - c) / 1e6 / float64(2*n) * 100
	for _, e := range ends {
		w, _ := syscall.Write(e[1], []byte{1})
		check(w == 1, "write")
	}
	wg.Wait()
	say("speed", alone/beside*100, "%")
	say("early", alone/early*100, "%")
	say("idle-cpu", idle, "%")
	say("eintr", float64(eintr), "each")
}
