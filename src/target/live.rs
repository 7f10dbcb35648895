pub(crate) struct LiveSet;
