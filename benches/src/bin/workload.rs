//! The workloads with the system's allocator; started by the driver.

fn main() {
    unyield_benches::work::serve(unyield_benches::work::measure);
}
