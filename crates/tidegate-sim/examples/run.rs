use tidegate_sim::*;
fn main() {
    let mut args = std::env::args().skip(1);
    let text = std::fs::read_to_string(args.next().unwrap()).unwrap();
    let seed: u64 = args.next().unwrap().parse().unwrap();
    let s = Scenario::from_toml(&text).unwrap();
    println!("{}", World::new(s, Entropy::seed(seed)).run());
}
