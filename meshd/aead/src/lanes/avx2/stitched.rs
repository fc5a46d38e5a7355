//! ChaCha20's rounds on eight blocks and, in the same instructions' shadow, Poly1305 of two texts. In assembly.
//!
//! The rounds keep the vector units busy and leave the integer units idle, where a block of Poly1305 is a chain of
//! multiplications and carries that waits for itself. Two chains between the rounds' instructions cost hardly anything: the
//! processor has room for them in every cycle. A compiler keeps neither the order nor the sixteen vector registers.

use core::arch::asm;
use core::mem::offset_of;

use super::{Avx2, ROTATIONS};
use crate::lanes::{Lanes, Row};
use crate::poly1305::Poly1305;

/// Two of Poly1305's blocks: what a chain takes in beside one double round.
pub(super) type Chunk = [u8; 32];

/// Double rounds of a block, and so how many chunks of each text can be taken in beside.
pub(super) const ROUNDS: usize = 10;

/// What the assembly needs within reach of one register.
#[repr(C, align(32))]
pub(super) struct Work {
    /// The state from which the rounds start, row by row.
    pub(super) start: [Row<Avx2>; 4],
    /// Row c waits in memory during the rounds, two of its words at a time.
    c: Row<Avx2>,
    rotations: [[u8; 32]; 2],
    pub(super) macs: [Poly1305; 2],
    /// Double rounds that are still to be done, with Poly1305 beside and without.
    with: u64,
    without: u64,
}

impl Work {
    #[inline(always)]
    pub(super) fn new(lanes: Avx2, start: [Row<Avx2>; 4]) -> Self {
        Self {
            start,
            c: [lanes.splat(0); 4],
            rotations: ROTATIONS.0,
            macs: Default::default(),
            with: 0,
            without: 0,
        }
    }

    /// What twenty rounds, and the sum with what they started from, make of the state (RFC 8439, section 2.3). Beside them
    /// the first authenticator takes in the chunks of the first text, the second those of the second: equally many, at
    /// most [`ROUNDS`].
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    pub(super) fn blocks(&mut self, texts: [&[Chunk]; 2]) -> [Row<Avx2>; 4] {
        let [first, second] = texts;
        let with = first.len().min(second.len()).min(ROUNDS);
        debug_assert!(with == first.len() && with == second.len());
        (self.with, self.without) = (with as u64, (ROUNDS - with) as u64);
        // SAFETY: AVX2 and BMI2 are there; the counts are at most those of the chunks that both have.
        unsafe { blocks(self, first.as_ptr(), second.as_ptr()) }
    }

    /// The same without rounds.
    #[inline(always)]
    pub(super) fn absorb(&mut self, texts: [&[Chunk]; 2]) {
        let [first, second] = &mut self.macs;
        for (a, b) in texts[0].iter().zip(texts[1]) {
            for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
                first.block(a);
                second.block(b);
            }
        }
    }
}

/// Two quarter rounds abreast, and behind each half a piece of something else.
#[rustfmt::skip]
macro_rules! pair {
    ($a0:literal $b0:literal $d0:literal, $a1:literal $b1:literal $d1:literal, $from0:literal, $from1:literal, [$p:expr, $q:expr]) => {
        concat!(
            half!($a0 $b0 $d0, $a1 $b1 $d1, $from0, $from1, "[rdi + {rotations}]", 12, 20), $p,
            half!($a0 $b0 $d0, $a1 $b1 $d1, "{c0}", "{c1}", "[rdi + {rotations} + 32]", 7, 25), $q,
        )
    };
}

/// A double round: the columns two by two, then the diagonals. Before it and behind it, c0 and c1 hold the first two words of
/// row c; the others are in memory.
#[rustfmt::skip]
macro_rules! double_round {
    ($first:tt $second:tt $third:tt $fourth:tt) => {
        concat!(
            pair!(0 0 0, 1 1 1, "{c0}", "{c1}", $first),
            "vmovdqa [rdi + {c}], {c0}\n",
            "vmovdqa [rdi + {c} + 32], {c1}\n",
            pair!(2 2 2, 3 3 3, "[rdi + {c} + 64]", "[rdi + {c} + 96]", $second),
            // Columns 0 and 1 of the diagonals meet what is in c0 and c1 now.
            pair!(0 1 3, 1 2 0, "{c0}", "{c1}", $third),
            "vmovdqa [rdi + {c} + 64], {c0}\n",
            "vmovdqa [rdi + {c} + 96], {c1}\n",
            pair!(2 3 1, 3 0 2, "[rdi + {c}]", "[rdi + {c} + 32]", $fourth),
        )
    };
}

/// Poly1305's block as in `poly1305.rs`, where its bounds are: h = (h + block + 2^128)·r, the sum's carries first.
/// In rax the high part of h1·s1 + h2·s1, in rcx the low one; in r15 and rbx h0·r1.
macro_rules! multiply {
    ($text:literal, $offset:literal, $h0:literal $h1:literal $h2:literal, $mac:literal) => {
        concat!(
            "add ",
            $h0,
            ", [",
            $text,
            " + ",
            $offset,
            "]\n",
            "adc ",
            $h1,
            ", [",
            $text,
            " + ",
            $offset,
            " + 8]\n",
            "adc ",
            $h2,
            ", 1\n",
            "mov rdx, [rdi + ",
            $mac,
            " + {s1}]\n",
            "mulx rax, rcx, ",
            $h1,
            "\n",
            "imul rdx, ",
            $h2,
            "\n",
            "add rax, rdx\n",
            "mov rdx, [rdi + ",
            $mac,
            " + {r} + 8]\n",
            "mulx r15, rbx, ",
            $h0,
            "\n",
            "mov rdx, [rdi + ",
            $mac,
            " + {r}]\n",
            "imul ",
            $h2,
            ", rdx\n",
            "mulx rbp, ",
            $h0,
            ", ",
            $h0,
            "\n",
        )
    };
}

/// The rest of it: the products' sum, and what is above 2^130 comes back times 5.
macro_rules! reduce {
    ($h0:literal $h1:literal $h2:literal) => {
        concat!(
            "add ",
            $h0,
            ", rcx\n",
            "adc rax, rbp\n",
            "mulx rdx, ",
            $h1,
            ", ",
            $h1,
            "\n",
            "add ",
            $h1,
            ", rbx\n",
            "adc ",
            $h2,
            ", r15\n",
            "add ",
            $h1,
            ", rax\n",
            "adc ",
            $h2,
            ", rdx\n",
            "mov rcx, ",
            $h2,
            "\n",
            "and ",
            $h2,
            ", 3\n",
            "shr rcx, 2\n",
            "lea rcx, [rcx + 4 * rcx]\n",
            "add ",
            $h0,
            ", rcx\n",
            "adc ",
            $h1,
            ", 0\n",
            "adc ",
            $h2,
            ", 0\n",
        )
    };
}

/// One block of the first text, and one of the second.
macro_rules! first {
    ($offset:literal) => {
        multiply!("rsi", $offset, "r9" "r10" "r11", "{mac0}")
    };
    () => {
        reduce!("r9" "r10" "r11")
    };
}
macro_rules! second {
    ($offset:literal) => {
        multiply!("r8", $offset, "r12" "r13" "r14", "{mac1}")
    };
    () => {
        reduce!("r12" "r13" "r14")
    };
}

/// # Safety
/// `work` is valid, `work.with` and `work.without` sum to ten, and each text has `work.with` chunks.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn blocks(work: *mut Work, first: *const Chunk, second: *const Chunk) -> [Row<Avx2>; 4] {
    let (a0, a1, a2, a3, b0, b1, b2, b3);
    let (c0, c1, c2, c3, d0, d1, d2, d3);
    // SAFETY: `rdi` points to a `Work`, aligned to 32 bytes, of which nothing beyond is read or written; 32 bytes a turn
    // are read of each text. The stack pointer and the two registers that are not ours to clobber are put back.
    unsafe {
        asm!(
            // Fifteen integer registers are just enough; the compiler keeps these two for itself.
            "push rbx",
            "push rbp",
            "vmovdqa {c0}, [rdi + {start} + 256]",
            "vmovdqa {c1}, [rdi + {start} + 288]",
            "vmovdqa {c2}, [rdi + {start} + 320]",
            "vmovdqa {c3}, [rdi + {start} + 352]",
            "vmovdqa [rdi + {c} + 64], {c2}",
            "vmovdqa [rdi + {c} + 96], {c3}",
            "vmovdqa {a0}, [rdi + {start}]",
            "vmovdqa {a1}, [rdi + {start} + 32]",
            "vmovdqa {a2}, [rdi + {start} + 64]",
            "vmovdqa {a3}, [rdi + {start} + 96]",
            "vmovdqa {b0}, [rdi + {start} + 128]",
            "vmovdqa {b1}, [rdi + {start} + 160]",
            "vmovdqa {b2}, [rdi + {start} + 192]",
            "vmovdqa {b3}, [rdi + {start} + 224]",
            "vmovdqa {d0}, [rdi + {start} + 384]",
            "vmovdqa {d1}, [rdi + {start} + 416]",
            "vmovdqa {d2}, [rdi + {start} + 448]",
            "vmovdqa {d3}, [rdi + {start} + 480]",
            "cmp qword ptr [rdi + {with}], 0",
            "je 3f",
            "mov r9, [rdi + {mac0} + {h}]",
            "mov r10, [rdi + {mac0} + {h} + 8]",
            "mov r11, [rdi + {mac0} + {h} + 16]",
            "mov r12, [rdi + {mac1} + {h}]",
            "mov r13, [rdi + {mac1} + {h} + 8]",
            "mov r14, [rdi + {mac1} + {h} + 16]",
            ".p2align 5",
            "2:",
            double_round!([first!(0), first!()] [second!(0), second!()] [first!(16), first!()] [second!(16), second!()]),
            "add rsi, 32",
            "add r8, 32",
            "dec qword ptr [rdi + {with}]",
            "jnz 2b",
            "mov [rdi + {mac0} + {h}], r9",
            "mov [rdi + {mac0} + {h} + 8], r10",
            "mov [rdi + {mac0} + {h} + 16], r11",
            "mov [rdi + {mac1} + {h}], r12",
            "mov [rdi + {mac1} + {h} + 8], r13",
            "mov [rdi + {mac1} + {h} + 16], r14",
            "3:",
            "cmp qword ptr [rdi + {without}], 0",
            "je 5f",
            ".p2align 5",
            "4:",
            double_round!(["", ""] ["", ""] ["", ""] ["", ""]),
            "dec qword ptr [rdi + {without}]",
            "jnz 4b",
            "5:",
            "vpaddd {a0}, {a0}, [rdi + {start}]",
            "vpaddd {a1}, {a1}, [rdi + {start} + 32]",
            "vpaddd {a2}, {a2}, [rdi + {start} + 64]",
            "vpaddd {a3}, {a3}, [rdi + {start} + 96]",
            "vpaddd {b0}, {b0}, [rdi + {start} + 128]",
            "vpaddd {b1}, {b1}, [rdi + {start} + 160]",
            "vpaddd {b2}, {b2}, [rdi + {start} + 192]",
            "vpaddd {b3}, {b3}, [rdi + {start} + 224]",
            "vpaddd {c0}, {c0}, [rdi + {start} + 256]",
            "vpaddd {c1}, {c1}, [rdi + {start} + 288]",
            "vmovdqa {c2}, [rdi + {c} + 64]",
            "vmovdqa {c3}, [rdi + {c} + 96]",
            "vpaddd {c2}, {c2}, [rdi + {start} + 320]",
            "vpaddd {c3}, {c3}, [rdi + {start} + 352]",
            "vpaddd {d0}, {d0}, [rdi + {start} + 384]",
            "vpaddd {d1}, {d1}, [rdi + {start} + 416]",
            "vpaddd {d2}, {d2}, [rdi + {start} + 448]",
            "vpaddd {d3}, {d3}, [rdi + {start} + 480]",
            "pop rbp",
            "pop rbx",
            a0 = out(ymm_reg) a0, a1 = out(ymm_reg) a1, a2 = out(ymm_reg) a2, a3 = out(ymm_reg) a3,
            b0 = out(ymm_reg) b0, b1 = out(ymm_reg) b1, b2 = out(ymm_reg) b2, b3 = out(ymm_reg) b3,
            c0 = out(ymm_reg) c0, c1 = out(ymm_reg) c1, c2 = out(ymm_reg) c2, c3 = out(ymm_reg) c3,
            d0 = out(ymm_reg) d0, d1 = out(ymm_reg) d1, d2 = out(ymm_reg) d2, d3 = out(ymm_reg) d3,
            start = const offset_of!(Work, start),
            c = const offset_of!(Work, c),
            rotations = const offset_of!(Work, rotations),
            mac0 = const offset_of!(Work, macs),
            mac1 = const offset_of!(Work, macs) + size_of::<Poly1305>(),
            h = const offset_of!(Poly1305, h),
            r = const offset_of!(Poly1305, r),
            s1 = const offset_of!(Poly1305, s1),
            with = const offset_of!(Work, with),
            without = const offset_of!(Work, without),
            in("rdi") work,
            inout("rsi") first => _,
            inout("r8") second => _,
            out("rax") _, out("rcx") _, out("rdx") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    [
        [a0, a1, a2, a3],
        [b0, b1, b2, b3],
        [c0, c1, c2, c3],
        [d0, d1, d2, d3],
    ]
}
