use super::program::{AND, EXIT, JUMP_UNLESS, LOAD_WORD, MOVE, MOVE_REGISTER, SHIFT_RIGHT};
use super::*;
use serde_json::{Value, json};

fn of(configured: &Value) -> Option<Vec<Rule>> {
    let configured: Vec<OciRule> = serde_json::from_value(configured.clone()).unwrap();
    rules(&configured).unwrap()
}

/// What the program answers, by an interpreter of the instructions that it uses.
fn answer(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let one = program[at];
        let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
        let immediate = one.immediate as u32;
        at += 1;
        match one.code {
            LOAD_WORD => registers[to] = context[usize::try_from(one.offset).unwrap() / 4].into(),
            MOVE => registers[to] = immediate.into(),
            MOVE_REGISTER => registers[to] = registers[from] & 0xffff_ffff,
            AND => registers[to] &= u64::from(immediate),
            SHIFT_RIGHT => registers[to] >>= immediate,
            JUMP_UNLESS if registers[to] == u64::from(immediate) => {}
            JUMP_UNLESS => at += usize::try_from(one.offset).unwrap(),
            EXIT => return registers[0],
            other => panic!("{other:#x} is not known"),
        }
    }
}

const BLOCK: u32 = Kind::Block as u32;
const CHARACTER: u32 = Kind::Character as u32;
const M: u32 = MKNOD as u32;
const R: u32 = READ as u32;
const W: u32 = WRITE as u32;

#[test]
fn a_plain_container_makes_nodes_and_opens_only_the_usual_ones() {
    let rules = of(&json!([{ "allow": false, "access": "rwm" }])).unwrap();
    let program = program(&rules);
    let ask = |kind: u32, access: u32, major: u32, minor: u32| answer(&program, kind, access, major, minor);
    assert_eq!((ask(CHARACTER, R | W, 1, 3), ask(CHARACTER, R | W, 136, 7)), (1, 1));
    assert_eq!((ask(BLOCK, M, 8, 0), ask(CHARACTER, M, 250, 1)), (1, 1));
    // The node's disk, memory and kernel log.
    assert_eq!((ask(BLOCK, R, 8, 0), ask(BLOCK, R | W, 254, 0), ask(BLOCK, M | R, 8, 0)), (0, 0, 0));
    assert_eq!((ask(CHARACTER, R, 1, 1), ask(CHARACTER, R, 1, 11), ask(BLOCK, R, 1, 3)), (0, 0, 0));
}

#[test]
fn a_device_of_the_container_is_allowed_as_its_permissions_say() {
    let rules = of(&json!([{ "allow": false, "access": "rwm" },
        { "allow": true, "type": "b", "major": 7, "minor": 3, "access": "r" },
        { "allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm" }]));
    let program = program(&rules.unwrap());
    let ask = |kind: u32, access: u32, major: u32, minor: u32| answer(&program, kind, access, major, minor);
    assert_eq!((ask(BLOCK, R, 7, 3), ask(BLOCK, W, 7, 3), ask(BLOCK, R, 7, 4)), (1, 0, 0));
    assert_eq!((ask(CHARACTER, R | W, 10, 232), ask(CHARACTER, R, 10, 1)), (1, 0));
}

#[test]
fn a_privileged_container_has_no_filter() {
    assert_eq!(of(&json!([{ "allow": true, "access": "rwm" }])), None);
}

/// A group of version 2 is on every machine of today, if only beside those of version 1: programs can be attached
/// to it whatever controllers it has.
#[test]
fn the_kernel_takes_the_program_and_refuses_devices_by_it() {
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let mount = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists());
    let Some(mount) = mount.filter(|_| nix::unistd::geteuid().is_root()) else {
        println!("skipped: needs root and a control group of version 2");
        return;
    };
    let name = format!("keelson-devices-{}", std::process::id());
    let (group, folder) = (mount.join(&name), std::env::temp_dir().join(&name));
    std::fs::create_dir(&group).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let config = json!({ "linux": { "resources": { "devices": [{ "allow": false, "access": "rwm" }] } } });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    attach(&folder, &group).unwrap();
    // In the group: null can be read, a node for the kernel's log be made and not be opened.
    let script = format!(
        "echo $$ > {0}/cgroup.procs && head -c 1 /dev/zero > /dev/null && mknod {1}/log c 1 11 && \
         if head -c 1 {1}/log 2> {1}/why; then exit 9; else grep -q 'not permitted' {1}/why; fi",
        group.display(),
        folder.display()
    );
    let status = std::process::Command::new("sh").args(["-c", &script]).status();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_dir(&group).unwrap();
    assert!(status.unwrap().success());
}

#[test]
fn devices_have_the_names_that_systemd_knows() {
    let groups = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n259 blkext\n  8 sd\n";
    let name = |kind, major, minor, access| named(&Rule { kind, major, minor, access }, groups);
    let some = |device: &str, access: &str| Some((device.to_owned(), access.to_owned()));
    assert_eq!(name(Kind::Character, Some(1), Some(3), ALL), some("/dev/char/1:3", "rwm"));
    assert_eq!(name(Kind::Character, Some(136), None, ALL), some("char-pts", "rwm"));
    assert_eq!(name(Kind::Block, Some(8), None, READ), some("block-sd", "r"));
    assert_eq!(name(Kind::Block, None, None, MKNOD), some("block-*", "m"));
    // A driver that is not there has no devices.
    assert_eq!(name(Kind::Block, Some(136), None, ALL), None);
}
