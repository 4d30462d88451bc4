//! Makes libraries of emitted kernels: clang compiles the source as it is with the headers of this folder.
//!
//! Libraries stay in their folder under the hash of what they are made of.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The language of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// CUDA C++.
    Cuda,
    /// HIP C++.
    Hip,
    /// Metal's; `rest` are the arguments behind the block of scalars.
    #[allow(dead_code, reason = "not all who include this have it")]
    Metal,
}

impl Language {
    /// As targets have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Language::Cuda => "cuda",
            Language::Hip => "hip",
            Language::Metal => "msl",
        }
    }
}

/// A kernel.
pub(crate) struct Source<'a> {
    /// Of its entry.
    pub(crate) name: &'a str,
    pub(crate) language: Language,
    pub(crate) text: &'a str,
    /// Arguments behind the block of scalars, each after a comma.
    pub(crate) rest: String,
    /// How many buffers and words of scalars there are.
    pub(crate) buffers: usize,
    pub(crate) words: usize,
    pub(crate) workgroup: [u32; 3],
    /// Dynamic shared memory.
    pub(crate) shared_bytes: u32,
}

/// What compiles.
pub(crate) struct Compiler {
    program: String,
    headers: PathBuf,
    folder: PathBuf,
    /// Of the compiler and the headers.
    mark: blake3::Hash,
    units: OnceLock<PathBuf>,
}

impl Compiler {
    /// Takes this folder of sources, and puts libraries into `folder`.
    pub(crate) fn new(headers: &Path, folder: &Path) -> Compiler {
        let given = std::env::var("DREAM_CLANG").ok();
        let names = given.into_iter().chain(["clang-19".to_owned(), "clang++".to_owned()]);
        let version = |name: String| {
            let output = Command::new(&name).arg("--version").stderr(Stdio::null()).output().ok()?;
            output.status.success().then_some((name, output.stdout))
        };
        let (program, mut all) = names.filter_map(version).next().unwrap_or_else(|| {
            panic!("no clang; this installs one: apt-get install -y clang-19 (or name yours in DREAM_CLANG)")
        });
        let mut folders = vec![headers.to_owned()];
        while let Some(next) = folders.pop() {
            let entries = std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display()));
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it is listed").path()).collect();
            paths.sort();
            for path in paths {
                match path.is_dir() {
                    true => folders.push(path),
                    false => all.extend(std::fs::read(&path).expect("it can be read")),
                }
            }
        }
        let (headers, folder) = (headers.to_owned(), folder.to_owned());
        Compiler { program, headers, folder, mark: blake3::hash(&all), units: OnceLock::new() }
    }

    /// Compiles to a library, unless it is there.
    pub(crate) fn compile(&self, language: &str, source: &str, arguments: &[&OsStr]) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.mark.as_bytes()).update(language.as_bytes()).update(source.as_bytes());
        for argument in arguments {
            hasher.update(argument.as_encoded_bytes()).update(b"\0");
        }
        let path = self.folder.join(format!("host-{}.so", hasher.finalize().to_hex()));
        if path.exists() {
            return path;
        }
        // Others may be at it as well.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = path.with_extension(format!("{}.{count}", std::process::id()));
        let mut child = Command::new(&self.program)
            .args(["-x", language, "-O1", "-fPIC", "-shared", "-s", "-", "-o"])
            .arg(&own)
            .arg("-I")
            .arg(&self.headers)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the compiler starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(source.as_bytes()).expect("the compiler reads");
        drop(stdin);
        let output = child.wait_with_output().expect("the compiler ends");
        assert!(output.status.success(), "{}\n{source}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&own, &path).expect("both are in one folder");
        path
    }

    /// Links against what runs units.
    pub(crate) fn link(&self) -> OsString {
        let mut argument = OsString::from("-Wl,");
        argument.push(self.units());
        argument
    }

    /// What runs units.
    pub(crate) fn units(&self) -> &Path {
        self.units.get_or_init(|| {
            let source = std::fs::read_to_string(self.headers.join("units.cpp")).expect("it is there");
            self.compile("c++", &source, &["-std=c++17", "-Wall", "-Wextra", "-Werror"].map(OsStr::new))
        })
    }

    /// The library of a kernel, whose symbol `dream_kernel` is a `Kernel` of `run.h`.
    pub(crate) fn kernel(&self, source: &Source<'_>) -> PathBuf {
        let units = self.link();
        let mut arguments = vec![
            units.as_os_str(),
            OsStr::new("-std=c++17"),
            OsStr::new("-w"),
            OsStr::new("-fno-strict-aliasing"),
            // The last member of `array` has the size that it says.
            OsStr::new("-fstrict-flex-arrays=3"),
            OsStr::new(
                "-fsanitize=bounds,shift,integer-divide-by-zero,float-cast-overflow,signed-integer-overflow",
            ),
            OsStr::new("-fsanitize-minimal-runtime"),
        ];
        match source.language {
            Language::Cuda => arguments.extend(["-include", "cuda_runtime.h"].map(OsStr::new)),
            Language::Hip => arguments.extend(["-include", "hip/hip_runtime.h"].map(OsStr::new)),
            Language::Metal => {}
        }
        self.compile("c++", &wrapped(source), &arguments)
    }
}

/// The number in parentheses behind `word`.
fn number_behind(source: &str, word: &str) -> u32 {
    let rest = &source[source.find(word).unwrap_or_else(|| panic!("no {word} in {source}")) + word.len()..];
    rest[1..rest.find(')').expect("it is closed")].parse().expect("a number")
}

/// Name of the dynamic shared memory.
fn shared_name(text: &str) -> Option<&str> {
    let line = text.split("extern __shared__ ").nth(1)?;
    line.split("[]").next()?.split(' ').next_back()
}

/// The instructions of PTX that kernels use, and the functions of `ptx.h` that do the same.
const PTX: [(&str, &str); 28] = [
    ("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }", "address"),
    ("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;", "copy"),
    ("cp.async.commit_group;", "commit"),
    ("fence.proxy.async.shared::cta;", "proxy_fence"),
    ("cp.async.wait_group 0;", "wait_but<0>"),
    ("cp.async.wait_group 1;", "wait_but<1>"),
    ("cp.async.wait_group 2;", "wait_but<2>"),
    ("cp.async.wait_group 3;", "wait_but<3>"),
    ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];", "fragments<false>"),
    ("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];", "fragments<true>"),
    (
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};",
        "multiply<ptx::BF16x2>",
    ),
    (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};",
        "multiply<ptx::F16x2>",
    ),
    (
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};",
        "multiply<ptx::E4M3>",
    ),
    ("st.global.v4.b32 [%0], {%1, %2, %3, %4};", "store"),
    ("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];", "load"),
    ("fence.acq_rel.gpu;", "fence"),
    ("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;", "count"),
    ("st.global.u32 [%0], 0;", "reset"),
    ("shfl.sync.bfly.b32 %0, %1, 1, 0x1f, 0xffffffff;", "shuffle<1>"),
    ("shfl.sync.bfly.b32 %0, %1, 2, 0x1f, 0xffffffff;", "shuffle<2>"),
    ("shfl.sync.bfly.b32 %0, %1, 4, 0x1f, 0xffffffff;", "shuffle<4>"),
    ("shfl.sync.bfly.b32 %0, %1, 8, 0x1f, 0xffffffff;", "shuffle<8>"),
    ("shfl.sync.bfly.b32 %0, %1, 16, 0x1f, 0xffffffff;", "shuffle<16>"),
    ("redux.sync.min.s32 %0, %1, 0xffffffff;", "extreme<false>"),
    ("redux.sync.max.s32 %0, %1, 0xffffffff;", "extreme<true>"),
    ("cvt.rn.bf16x2.f32 %0, %1, %2;", "pack<BF16>"),
    ("cvt.rn.f16x2.f32 %0, %1, %2;", "pack<F16>"),
    ("ex2.approx.ftz.f32 %0, %1;", "power_of_2"),
];

/// `text` with calls in place of instructions of PTX, if it has any.
fn without_ptx(text: &str) -> Option<String> {
    let mut parts = text.split("asm volatile(\"");
    let mut all = parts.next().unwrap_or_default().to_owned();
    let mut any = false;
    for part in parts {
        let (instruction, rest) = part.split_once('"').expect("it is closed");
        let (asm, rest) = rest.split_once(");").expect("it ends");
        // `"=f"(result.i_0)`: results and then operands.
        let operands = asm.split("\"(").skip(1).map(|operand| operand.split(')').next().unwrap_or_default());
        if instruction.contains("wgmma") {
            let operands: Vec<&str> = operands.collect();
            all += &format!("{{ {} }}{rest}", by_groups(instruction, &operands));
            any = true;
            continue;
        }
        let (_, function) = PTX
            .iter()
            .find(|(known, _)| *known == instruction)
            .unwrap_or_else(|| panic!("`{instruction}` is no instruction of kernels/tests/host/ptx.h"));
        let arguments: Vec<&str> = ["__LINE__"].into_iter().chain(operands).collect();
        all += &format!("ptx::{function}({});{rest}", arguments.join(", "));
        any = true;
    }
    any.then(|| format!("#include \"ptx.h\"\n{all}"))
}

/// Calls of `wgmma.h` for a block of instructions of warpgroups.
fn by_groups(block: &str, operands: &[&str]) -> String {
    let mut all = String::new();
    let operand = |text: &str| {
        let number = text.trim().strip_prefix('%').and_then(|n| n.parse::<usize>().ok());
        let found = number.and_then(|n| operands.get(n));
        *found.unwrap_or_else(|| panic!("`{text}` is no operand of `{block}`"))
    };
    // `// {%0, %1}\n`: operands that are named for the generator's sake.
    let code: String = block
        .split("\\n")
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<&str>>()
        .join(" ");
    // Braces of the block, not of operands.
    let code = code.trim().trim_start_matches("{ ").trim_end_matches('}');
    for instruction in code.split(';').map(str::trim).filter(|it| !it.is_empty()) {
        let (name, rest) = instruction.split_once(' ').unwrap_or((instruction, ""));
        let call = match name {
            "mov.b32" => {
                let (to, from) = rest.split_once(',').expect("two operands");
                let i = to.trim().trim_start_matches('%');
                format!("ptx::move({}, {}, {i});", operand(to), operand(from))
            }
            "wgmma.fence.sync.aligned" => "ptx::group_fence(__LINE__);".to_owned(),
            "wgmma.commit_group.sync.aligned" => "ptx::group_commit(__LINE__);".to_owned(),
            "wgmma.wait_group.sync.aligned" => format!("ptx::group_wait(__LINE__, {rest});"),
            _ => {
                let unknown = || -> ! { panic!("`{instruction}` is no instruction of wgmma.h") };
                let shape = name.strip_prefix("wgmma.mma_async.sync.aligned.m64n");
                let Some((n, types)) = shape.and_then(|shape| shape.split_once('k')) else { unknown() };
                let (element, signs) = match types {
                    "16.f32.bf16.bf16" => ("BF16x2", "1, 1, 0, 0"),
                    "16.f32.f16.f16" => ("F16x2", "1, 1, 0, 0"),
                    "32.f32.e4m3.e4m3" => ("E4M3", "1, 1"),
                    _ => unknown(),
                };
                let Some((sums, rest)) = rest.strip_prefix('{').and_then(|rest| rest.split_once("}, "))
                else {
                    unknown()
                };
                let [a, b, adds, given] = rest.splitn(4, ", ").collect::<Vec<&str>>()[..] else { unknown() };
                assert_eq!(given, signs, "{instruction}");
                let sums: Vec<String> = sums.split(',').map(|sum| format!("&{}", operand(sum))).collect();
                format!(
                    "{{ float *const sums[] = {{{}}}; ptx::group_multiply<ptx::{element}, {n}>(__LINE__, sums, {}, {}, {adds}); }}",
                    sums.join(", "),
                    operand(a),
                    operand(b)
                )
            }
        };
        all += &call;
        all.push(' ');
    }
    all
}

/// Behind the source: an entry that is called the same way whatever the language, and what there is to know of it.
fn wrapped(source: &Source<'_>) -> String {
    let Source { name, language, text, rest, buffers, words, workgroup, shared_bytes } = source;
    let (block, limit) = match language {
        Language::Cuda => ("*static_cast<info_st const *>(info)", "__launch_bounds__"),
        Language::Hip => ("Bound{info}", "__launch_bounds__"),
        Language::Metal => ("Bound{info}", "max_total_threads_per_threadgroup"),
    };
    assert!(number_behind(text, limit) >= workgroup.iter().product::<u32>(), "{name}: {text}");
    let shared = shared_name(text);
    assert!(*language == Language::Metal || shared.is_some() == (*shared_bytes > 0), "{name}: {text}");
    let emulated = without_ptx(text);
    let [begin, end] = if emulated.is_some() { ["ptx::begin(); ", " ptx::end();"] } else { [""; 2] };
    let code = emulated.as_deref().unwrap_or(text);
    let mut all = format!("{code}\nstatic_assert(sizeof(info_st) == {});\n", 4 * words);
    let (pointer, bytes) = match shared {
        Some(shared) => {
            let _ = writeln!(
                all,
                "__attribute__((aligned(256))) char {shared}[{shared_bytes} + SHARED_GUARD_BYTES];"
            );
            (format!("reinterpret_cast<unsigned char *>({shared})"), *shared_bytes)
        }
        None => ("nullptr".to_owned(), 0),
    };
    let given: String = (0..*buffers).map(|i| format!("Bound{{buffers[{i}]}}, ")).collect();
    let barriers =
        !begin.is_empty() || ["__syncthreads()", "threadgroup_barrier("].iter().any(|b| text.contains(b));
    let [x, y, z] = workgroup;
    let _ = writeln!(
        all,
        "static void dream_unit(void **buffers, void *info) {{ {begin}{name}({given}{block}{rest});{end} }}
extern \"C\" {{ extern const Kernel dream_kernel; }}
const Kernel dream_kernel = {{
    \"{name}\", dream_unit, {pointer}, {bytes}, {buffers}, {words}, {{{x}, {y}, {z}}}, {barriers},
}};"
    );
    all
}
