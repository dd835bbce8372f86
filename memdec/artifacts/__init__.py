"""Named, checked and resumable folders of stage outputs."""
