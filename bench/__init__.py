"""What the project costs and how fast it is: `omgsr bench`, and the measurements behind the pages in docs/."""
