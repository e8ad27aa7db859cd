"""Your own table: a file or a table is read, profiled, loaded into Iceberg and declared (`tandem new`)."""
