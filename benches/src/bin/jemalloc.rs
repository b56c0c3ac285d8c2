//! Workloads that allocate, with jemalloc; started by the driver.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    unyield_benches::work::serve(unyield_benches::work::measure_allocating);
}
