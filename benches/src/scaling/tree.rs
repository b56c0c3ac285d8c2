//! Task trees: what a fork-join computation does, known well enough that nobody has to walk it node by node.
//!
//! A task does work of its own, then forks into `a` (which its worker runs next) and `b` (which waits to be run or stolen),
//! and is done when both are. Nothing happens after the join: a combining step is counted as part of the work before the
//! fork. The extent of every task is known at once, so the moment at which a worker passes any point of its tree is plain
//! arithmetic as long as nobody interrupts it.

/// How much there is below a task, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Units of work.
    pub nodes: u64,
    /// Calls of `join`.
    pub forks: u64,
}

impl Extent {
    /// Adds `other`.
    pub fn add(&mut self, other: Extent) {
        self.nodes += other.nodes;
        self.forks += other.forks;
    }

    /// What is left of it without `other`, which is a part of it.
    pub fn without(self, other: Extent) -> Extent {
        Extent { nodes: self.nodes - other.nodes, forks: self.forks - other.forks }
    }
}

/// What a task goes on with after its own work.
#[derive(Clone, Copy, Debug)]
pub enum Next<T> {
    /// Nothing: a leaf.
    End,
    /// One task, without a fork.
    One(T),
    /// `join(a, b)`.
    Fork(T, T),
}

/// The first steps of a task.
#[derive(Clone, Copy, Debug)]
pub struct Step<T> {
    /// Units of work before anything else.
    pub own: u64,
    /// What follows.
    pub next: Next<T>,
}

/// A tree of tasks.
pub trait Tree: Sync {
    /// Names a task, in constant size.
    type Task: Copy + std::fmt::Debug;
    /// The task that is the whole tree.
    fn root(&self) -> Self::Task;
    /// How much is below `task`.
    fn extent(&self, task: Self::Task) -> Extent;
    /// How `task` begins.
    fn step(&self, task: Self::Task) -> Step<Self::Task>;
}

/// Walks a whole tree and adds up what its steps say: must equal the extent of the root.
#[cfg(test)]
pub(crate) fn walked<T: Tree>(tree: &T) -> Extent {
    let mut sum = Extent::default();
    let mut left = vec![tree.root()];
    while let Some(task) = left.pop() {
        let Step { own, next } = tree.step(task);
        sum.nodes += own;
        match next {
            Next::End => {}
            Next::One(t) => left.push(t),
            Next::Fork(a, b) => {
                sum.forks += 1;
                let mut both = tree.extent(a);
                both.add(tree.extent(b));
                both.add(Extent { nodes: own, forks: 1 });
                assert_eq!(both, tree.extent(task));
                left.extend([b, a]);
            }
        }
    }
    sum
}
