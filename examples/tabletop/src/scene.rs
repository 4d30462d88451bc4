//! The table: blocks and a gripper, made from a seed, drawn in integers, so that every frame is the same everywhere.

/// Pixels of a frame's side.
pub const SIDE: usize = 112;
/// Colours in the order in which blocks are placed and drawn.
pub(crate) const COLOURS: [(&str, [u8; 3]); 3] =
    [("red", [216, 40, 40]), ("green", [40, 184, 56]), ("blue", [48, 80, 232])];
/// Colours of their edges, and of the gripper and its centre.
pub(crate) const EDGE: [u8; 3] = [30, 30, 30];
pub(crate) const GRIPPER: [u8; 3] = [250, 250, 250];
pub(crate) const CENTRE: [u8; 3] = [250, 220, 0];
/// Blocks are at least this far apart on one axis.
const APART: i32 = 20;
/// Block centres and the gripper start this far from the edge, in a square of [`SPREAD`].
const MARGIN: i32 = 12;
const SPREAD: u64 = 88;

/// A point of the frame: x to the right, y down, in pixels.
pub type Point = [i32; 2];

/// What lies on the table, and what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Centres of the red, green and blue block.
    pub blocks: [Point; 3],
    /// The gripper.
    pub grip: Point,
    /// Which block is asked for.
    pub target: usize,
    phrase: u64,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn point(&mut self) -> Point {
        // x is drawn before y.
        let x = MARGIN + self.below(SPREAD) as i32;
        [x, MARGIN + self.below(SPREAD) as i32]
    }
}

impl Scene {
    /// The scene of a seed.
    pub fn new(seed: u64) -> Scene {
        let mut random = Random(seed);
        let mut blocks: [Point; 3] = [[0; 2]; 3];
        for block in 0..blocks.len() {
            let clear = |p: Point, placed: &[Point]| {
                placed.iter().all(|b| (p[0] - b[0]).abs().max((p[1] - b[1]).abs()) >= APART)
            };
            blocks[block] = loop {
                let point = random.point();
                if clear(point, &blocks[..block]) {
                    break point;
                }
            };
        }
        let grip = random.point();
        let target = random.below(3) as usize;
        Scene { blocks, grip, target, phrase: random.below(2) }
    }

    /// What the robot is told.
    pub fn instruction(&self) -> String {
        let verb = if self.phrase == 0 { "pick up" } else { "grab" };
        format!("{verb} the {} block", COLOURS[self.target].0)
    }

    /// Centre of the block that is asked for.
    pub fn goal(&self) -> Point {
        self.blocks[self.target]
    }

    /// The camera's view: [`SIDE`] rows of [`SIDE`] RGB pixels.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0; SIDE * SIDE * 3];
        for (at, pixel) in frame.chunks_exact_mut(3).enumerate() {
            let (x, y) = (at % SIDE, at / SIDE);
            let darker = if (x / 16 + y / 16) % 2 == 1 { 8 } else { 0 };
            let shade = [96 + x / 2, 96 + y / 2, 120];
            pixel.iter_mut().zip(shade).for_each(|(p, s)| *p = (s - darker) as u8);
        }
        let mut rectangle = |centre: Point, [w, h]: Point, colour: [u8; 3]| {
            let inside = |c: i32, half: i32| {
                let clamp = |v: i32| v.clamp(0, SIDE as i32) as usize;
                clamp(c - half)..clamp(c + half + 1)
            };
            for y in inside(centre[1], h) {
                for x in inside(centre[0], w) {
                    frame[(y * SIDE + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        };
        for (block, (_, colour)) in self.blocks.iter().zip(COLOURS) {
            rectangle(*block, [7, 7], EDGE);
            rectangle(*block, [6, 6], colour);
        }
        rectangle(self.grip, [1, 9], GRIPPER);
        rectangle(self.grip, [9, 1], GRIPPER);
        rectangle(self.grip, [2, 2], CENTRE);
        frame
    }
}
