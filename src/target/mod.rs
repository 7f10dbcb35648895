pub(crate) mod live;
