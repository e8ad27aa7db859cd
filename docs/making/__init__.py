"""What makes the documentation: pictures, generated pages, the site. The documentation itself is beside this folder."""
