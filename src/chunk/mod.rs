//! Where a stream is cut: page-aligned extents, FastCDC, folders of small files.
