//! Workloads that allocate, with mimalloc; started by the driver.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    unyield_benches::work::serve(unyield_benches::work::measure_allocating);
}
