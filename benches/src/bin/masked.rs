//! Workloads that allocate, with `Masked` around the system's allocator; started by the driver.

use std::alloc::System;
use unyield::alloc::Masked;

#[global_allocator]
static ALLOCATOR: Masked<System> = Masked(System);

fn main() {
    unyield_benches::work::serve(unyield_benches::work::measure_allocating);
}
