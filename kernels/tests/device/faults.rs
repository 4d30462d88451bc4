//! The host's runner finds what is wrong: kernels written by hand, each with one fault.

use crate::host;
use dreamc_kernels::{Access, Buffer, Element, Emitted, Extent, Form, Info, Scalar, ScalarType, Word};

const HEAD: &str = "typedef unsigned int uint32_t;
template <typename T, size_t N> struct array {
    T data[N];
    __device__ T& operator[](size_t i) { return data[i]; }
};
struct info_st { uint32_t scalars_u32[2]; };
";

/// Runs a body over `y`, eight words, `shared`, eight words, `unit` and `n`, which is 4, in two workgroups of four; what
/// it leaves in `y`.
fn run(form: Form, body: &str) -> Vec<u8> {
    let info = match form {
        Form::Cuda => "__grid_constant__ info_st const info",
        _ => "info_st const* const __restrict__ p",
    };
    let reference = if form == Form::Cuda { "" } else { "info_st const& info = *p;" };
    let source = format!(
        "{HEAD}extern \"C\" __global__ void __launch_bounds__(4) f(uint32_t * const __restrict__ y, {info}) {{
extern __shared__ __align__(4) char v1[];
{reference}
array<uint32_t, 8> &shared = *reinterpret_cast<array<uint32_t, 8> *>(&v1[0]);
uint32_t const unit = threadIdx.x, n = info.scalars_u32[0];
{body}
}}"
    );
    let emitted = Emitted {
        name: "f".to_owned(),
        form,
        source,
        workgroup: [4, 1, 1],
        shared_bytes: 32,
        buffers: vec![Buffer { name: "y", element: Element::U32, access: Access::ReadWrite }],
        scalars: vec![Scalar { name: "n", ty: ScalarType::U32 }],
        grid: [Extent::Constant(2), Extent::Constant(1), Extent::Constant(1)],
        info: Info { words: vec![Word::Scalar(0), Word::Zero] },
    };
    let mut buffers = [vec![0; 32]];
    host::run(&emitted, &mut buffers, &[4, 0], [2, 1, 1]);
    let [y] = buffers;
    y
}

/// What is said of a body.
fn fault(form: Form, body: &str) -> String {
    let panic = std::panic::catch_unwind(|| run(form, body)).expect_err("it is found");
    panic.downcast_ref::<String>().expect("a text").lines().next().expect("a line").to_owned()
}

#[test]
fn none() {
    for form in [Form::Cuda, Form::Hip] {
        let body = "shared[unit] = unit;\n__syncthreads();\ny[blockIdx.x * n + unit] = shared[n - 1 - unit];";
        let wanted: Vec<u8> = [3_u32, 2, 1, 0, 3, 2, 1, 0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(run(form, body), wanted);
    }
}

/// What others have not written yet is not what it will be: in one order of the units or the other.
#[test]
fn a_barrier_is_missing() {
    let body = "shared[unit] = unit;\ny[blockIdx.x * n + unit] = shared[n - 1 - unit];";
    for form in [Form::Cuda, Form::Hip] {
        assert_eq!(run(form, &format!("{body}\nif (n == 0) __syncthreads();")).iter().max(), Some(&0xff));
    }
}

#[test]
fn units_part() {
    let parted = "f as cuda: units part: one waits, another ends";
    assert_eq!(fault(Form::Cuda, "if (unit == 1) return;\n__syncthreads();"), parted);
    let elsewhere = "if (unit == 0) {\n__syncthreads();\n} else {\n__syncthreads();\n}";
    assert_eq!(fault(Form::Cuda, elsewhere), "f as cuda: units part: one waits, another waits elsewhere");
    assert_eq!(
        fault(Form::Hip, "if (unit == 3) {\n__syncthreads();\n}"),
        "f as hip: units part: one waits, another ends"
    );
}

#[test]
fn undefined() {
    let outside = "f as cuda: memory outside of all buffers is touched";
    assert!(fault(Form::Cuda, "y[8] = 1;").starts_with(outside));
    assert!(fault(Form::Cuda, "__syncthreads();\ny[unit] = y[2 * n + 1];").starts_with(outside));
    assert_eq!(fault(Form::Hip, "y[int(unit) - 1] = 1;"), "f as hip: memory before buffer 0 is written");
    assert_eq!(fault(Form::Cuda, "y[0] = shared[n + n + 1];"), "f as cuda: an index outside of its array");
    assert_eq!(fault(Form::Cuda, "y[0] = n << (8 * n);"), "f as cuda: a shift by more than there are bits");
    assert_eq!(fault(Form::Cuda, "y[0] = unit / (n - 4);"), "f as cuda: a division by 0");
}
