module unyield/fibers

go 1.19
