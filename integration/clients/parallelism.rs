// Prints how many threads Rust's standard library advises: fewer than there are processors where it finds a quota.
fn main() {
    println!("{}", std::thread::available_parallelism().expect("no advice"));
}
